/* The loss of rows of logits and its gradient, each row read once: soft targets at a temperature beside hard labels.
   limbeck compiles this file where a C compiler is found; `native.py` says what each field is. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define BLOCK (64 * LANES) /* numbers that are added up in float before they are added to a double */

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t bits __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* in memory */

/* Soft targets: none; dense by KL or cross-entropy, reverse KL, Jensen-Shannon, skewed KL or total variation; some. */
enum { NONE, DENSE, REVERSE, JENSEN_SHANNON, SKEWED, VARIATION, TOP, DRAWS };

typedef struct {
  int64_t rows, classes, kind, entropies, power, some;
  const float *logits, *teacher;
  float *gradient;
  const int64_t *labels, *ids;
  const float *log_probs, *log_tail;
  const uint8_t *soft_counts, *hard_counts;
  float *soft, *hard, *room;
  float inverse, by_soft, by_hard, share;
} Rows;

static inline floats load(const float *from) { return *(const loose *)from; }
static inline void store(float *to, floats value) { *(loose *)to = value; }
static inline floats where(ints yes, floats value) { return (floats)(yes & (ints)value); }

static inline floats load_some(const float *from, int64_t count, float fill) {
  float some[LANES];
  for (int lane = 0; lane < LANES; lane++) some[lane] = lane < count ? from[lane] : fill;
  return load(some);
}

static inline void store_some(float *to, floats value, int64_t count) {
  for (int lane = 0; lane < count; lane++) to[lane] = value[lane];
}

/* e^x for x <= 0, by Cephes' polynomial: to 2 units in the last place; 0 below -87, where float32 has no more digits. */
static inline floats exponential(floats x) {
  floats moved = x * 1.44269504088896341f + 12582912.0f; /* whose last bits are the nearest whole number */
  floats whole = moved - 12582912.0f;
  floats left = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  floats sum = left * 1.9875691500e-4f + 1.3981999507e-3f;
  sum = sum * left + 8.3334519073e-3f;
  sum = sum * left + 4.1665795894e-2f;
  sum = sum * left + 1.6666665459e-1f;
  sum = sum * left + 5.0000001201e-1f;
  sum = sum * (left * left) + left + 1.0f;
  bits scale = ((bits)moved - 0x4B400000u + 127u) << 23;
  return where(~(ints)(x < -87.0f), sum * (floats)scale);
}

static inline floats power_of(floats x, int power) {
  if (power >= 2) x = x * x;
  if (power >= 4) x = x * x;
  return x;
}

/* log x for x > 0 that is no denormal number, by Cephes' polynomial; x itself where that is infinite or no number. */
static inline floats logarithm(floats x) {
  ints power = (ints)((bits)x - 0x3F3504F3u) >> 23; /* the root of 1/2: numbers are taken from there to the root of 2 */
  floats left = (floats)((bits)x - ((bits)power << 23)) - 1.0f, square = left * left;
  floats sum = left * 7.0376836292e-2f - 1.1514610310e-1f;
  sum = sum * left + 1.1676998740e-1f;
  sum = sum * left - 1.2420140846e-1f;
  sum = sum * left + 1.4249322787e-1f;
  sum = sum * left - 1.6668057665e-1f;
  sum = sum * left + 2.0000714765e-1f;
  sum = sum * left - 2.4999993993e-1f;
  sum = sum * left + 3.3333331174e-1f;
  floats times = __builtin_convertvector(power, floats);
  floats found = left + (times * -2.12194440e-4f + (sum * left * square - 0.5f * square)) + times * 0.693359375f;
  ints as_it_is = (x == INFINITY) | (x != x);
  return (floats)((as_it_is & (ints)x) | (~as_it_is & (ints)found));
}

static inline double total(floats sums) {
  double found = 0;
  for (int lane = 0; lane < LANES; lane++) found += sums[lane];
  return found;
}

static inline floats greater(floats one, floats other) {
  ints more = one > other;
  return (floats)((more & (ints)one) | (~more & (ints)other));
}

static float largest(const float *x, int64_t count) {
  float found = -INFINITY;
  int64_t at = 0;
  if (count >= 4 * LANES) { /* four at a time, which do not wait for each other */
    floats most[4];
    for (int each = 0; each < 4; each++) most[each] = load(x + each * LANES);
    for (at = 4 * LANES; at + 4 * LANES <= count; at += 4 * LANES)
      for (int each = 0; each < 4; each++) most[each] = greater(load(x + at + each * LANES), most[each]);
    for (int each = 0; each < 4; each++)
      for (int lane = 0; lane < LANES; lane++) if (most[each][lane] > found) found = most[each][lane];
  }
  for (; at < count; at++) if (x[at] > found) found = x[at];
  return found;
}

static double sum_of(const float *x, int64_t count) {
  double found = 0;
  int64_t at = 0;
  while (at + LANES <= count) {
    floats part = {0};
    for (int64_t end = at + BLOCK; at + LANES <= count && at < end; at += LANES) part += load(x + at);
    found += total(part);
  }
  for (; at < count; at++) found += x[at];
  return found;
}

typedef struct { double student, teacher, gap, plain; } Sums;
typedef struct { floats student, teacher, gap, plain; } Parts;

/* What is made of one row.  most, others: the largest logits of student and teacher.  power: see one_row. */
typedef struct {
  const float *x, *z;
  float *q, *p, *plain;
  float most, others, inverse;
  int kind, entropies, power;
} Row;

/* Fill q (and p and plain) with e to `left` logits less the largest, and add them up.  gap: of p(log p - log q) or
   -p log q, but for the normalisers; of reverse KL of q(log p - log q), and p is filled with log p - log q. */
static inline __attribute__((always_inline)) void some_exponentials(
    const Row row, Parts *parts, int64_t at, int64_t left, int whole) {
  ints real = {0};
  if (!whole) for (int lane = 0; lane < left; lane++) real[lane] = -1;
#define PUT(to, value)                                                                                                \
  if (whole) store(to + at, value);                                                                                   \
  else { value = where(real, value); store_some(to + at, value, left); }
  floats own = (whole ? load(row.x + at) : load_some(row.x + at, left, row.most)) - row.most;
  floats scaled = own * row.inverse, some = exponential(scaled);
  PUT(row.q, some)
  parts->student += some;
  if (row.power > 0) parts->plain += power_of(some, row.power);
  if (row.power == 0) {
    floats at_one = exponential(own);
    PUT(row.plain, at_one)
    parts->plain += at_one;
  }
  if (row.kind >= DENSE && row.kind < TOP) {
    floats other = (whole ? load(row.z + at) : load_some(row.z + at, left, row.others)) - row.others;
    floats target = other * row.inverse, mass = exponential(target);
    /* a class of no mass has no part in it, though its logit is -inf; a mass that is no number has one */
    if (row.kind == REVERSE) {
      floats gap = where(~(ints)(some == 0.0f), target - scaled);
      if (!whole) mass = where(real, mass);
      PUT(row.p, gap)
      parts->gap += some * gap;
    } else {
      PUT(row.p, mass)
      parts->gap += where(~(ints)(mass == 0.0f), mass * (row.entropies ? target - scaled : -scaled));
    }
    parts->teacher += mass;
  }
#undef PUT
}

static inline __attribute__((always_inline)) Sums exponentials(const Row row, int64_t classes) {
  Sums sums = {0, 0, 0, 0};
  for (int64_t at = 0; at < classes;) {
    Parts parts = {{0}, {0}, {0}, {0}};
    for (int64_t end = at + BLOCK; at + LANES <= classes && at < end; at += LANES)
      some_exponentials(row, &parts, at, LANES, 1);
    if (at + LANES > classes && at < classes) {
      some_exponentials(row, &parts, at, classes - at, 0);
      at = classes;
    }
    sums.student += total(parts.student);
    sums.teacher += total(parts.teacher);
    sums.gap += total(parts.gap);
    sums.plain += total(parts.plain);
  }
  return sums;
}

/* Of divergences that compare q and p once their normalisers are known: fill p with what the derivative takes of each
   class, and add up q and p times what the value takes of it.  ratio: of the normaliser of q to that of p. */
static inline __attribute__((always_inline)) void some_compared(
    const Row row, Parts *parts, int64_t at, int64_t left, int whole, float ratio, float share) {
  floats q = whole ? load(row.q + at) : load_some(row.q + at, left, 0), p = whole ? load(row.p + at) : load_some(row.p + at, left, 0);
  ints has_q = ~(ints)(q == 0.0f), has_p = ~(ints)(p == 0.0f);
  floats one, taken;
  if (row.kind == JENSEN_SHANNON) { /* log(m/q), m = share p + (1 - share) q */
    one = taken = where(has_q | has_p, logarithm(p / q * (ratio * share) + (1.0f - share)));
    parts->teacher += p * one;
  } else if (row.kind == SKEWED) { /* m/p, m = share p + (1 - share) q */
    floats mixed = q / p * ((1.0f - share) / ratio) + share;
    parts->teacher += where(has_p, p * logarithm(mixed));
    one = taken = where(has_q, 1.0f / mixed);
  } else { /* the sign of q - p */
    floats apart = q - p * ratio;
    ints more = apart > 0.0f, less = apart < 0.0f, odd = apart != apart;
    one = taken = where(more, (floats){0} + 1.0f) - where(less, (floats){0} + 1.0f) + where(odd, apart);
    parts->teacher += apart * one;
  }
  parts->student += q * one;
  if (whole) store(row.p + at, taken); else store_some(row.p + at, taken, left);
}

static inline __attribute__((always_inline)) Sums compared(const Row row, int64_t classes, float ratio, float share) {
  Sums sums = {0, 0, 0, 0};
  for (int64_t at = 0; at < classes;) {
    Parts parts = {{0}, {0}, {0}, {0}};
    for (int64_t end = at + BLOCK; at + LANES <= classes && at < end; at += LANES)
      some_compared(row, &parts, at, LANES, 1, ratio, share);
    if (at + LANES > classes && at < classes) {
      some_compared(row, &parts, at, classes - at, 0, ratio, share);
      at = classes;
    }
    sums.student += total(parts.student);
    sums.teacher += total(parts.teacher);
  }
  return sums;
}

/* What the gradient of a class is made of: by_q q (centre - p), of KL by_q (q - ratio p), besides by_plain times q to a
   power or plain.  That of KL is exactly 0 for equal logits. */
typedef struct { float by_q, ratio, centre, by_plain; } Slope;

static inline float plain_of(const Row row, int64_t at) {
  float some = row.q[at], square = some * some;
  return row.power == 0 ? row.plain[at] : row.power == 1 ? some : row.power == 2 ? square : square * square;
}

static inline __attribute__((always_inline)) void write_gradient(
    const Row row, float *gradient, const Slope by, int64_t classes) {
  int64_t at = 0;
  for (; at + LANES <= classes; at += LANES) {
    floats some = load(row.q + at), found;
    if (row.kind == DENSE) found = (some - load(row.p + at) * by.ratio) * by.by_q;
    else if (row.kind > DENSE && row.kind < TOP) found = (by.centre - load(row.p + at)) * some * by.by_q;
    else found = some * by.by_q;
    if (row.power > 0) found += power_of(some, row.power) * by.by_plain;
    if (row.power == 0) found += load(row.plain + at) * by.by_plain;
    store(gradient + at, found);
  }
  for (; at < classes; at++) {
    float some = row.q[at], found;
    if (row.kind == DENSE) found = (some - row.p[at] * by.ratio) * by.by_q;
    else if (row.kind > DENSE && row.kind < TOP) found = (by.centre - row.p[at]) * some * by.by_q;
    else found = some * by.by_q;
    gradient[at] = row.power < 0 ? found : found + plain_of(row, at) * by.by_plain;
  }
}

/* The value and the derivative of five divergences between all classes, but for what is common to both. */
static inline __attribute__((always_inline)) double dense(const Rows *all, const Row row, const Sums *sums, Slope *by) {
  double ratio = sums->student / sums->teacher, shift = log(ratio), share = all->share;
  by->ratio = (float)ratio;
  if (row.kind == DENSE)
    return sums->gap / sums->teacher + log(sums->student) - (all->entropies ? log(sums->teacher) : 0);
  if (row.kind == REVERSE) {
    double mean = sums->gap / sums->student;
    by->centre = (float)mean;
    return -shift - mean;
  }
  Sums found = compared(row, all->classes, by->ratio, all->share);
  double of_q = found.student / sums->student, of_p = found.teacher / sums->teacher;
  by->centre = (float)of_q;
  by->by_q *= row.kind == VARIATION ? -0.5f : (float)(1 - share);
  if (row.kind == JENSEN_SHANNON) return share * (sums->gap / sums->teacher + shift - of_p) - (1 - share) * of_q;
  return row.kind == SKEWED ? -of_p : 0.5 * found.teacher / sums->student;
}

/* kind: of the soft target.  power: q at T = 1 is q at T to this power; 0 where it is made by itself, -1 without. */
static inline __attribute__((always_inline)) void one_row(const Rows *all, int64_t row, int kind, int power) {
  int64_t classes = all->classes, some = all->some;
  const float *x = all->logits + row * classes, *log_probs = kind == TOP ? all->log_probs + row * some : 0;
  const float *z = kind >= DENSE && kind < TOP ? all->teacher + row * classes : x;
  const int64_t *ids = kind >= TOP ? all->ids + row * some : 0;
  float *q = all->room, *kept = q + 3 * classes;
  float *gradient = all->gradient ? all->gradient + row * classes : 0;
  float most = largest(x, classes), others = z == x ? most : largest(z, classes);
  const Row own = {x, z, q, q + classes, q + 2 * classes, most, others, kind == NONE ? 1.0f : all->inverse, kind,
                   (int)all->entropies, power};
  Sums sums = exponentials(own, classes);
  double normaliser = log(sums.student), soft = 0, hard = 0, mass = 0, tail = 0, rest = 1;
  Slope by = {kind == NONE ? 0.0f : (float)(all->by_soft / sums.student), 0, 0, 0};
  int64_t label = power >= 0 ? all->labels[row] : 0;

  if (power >= 0) {
    hard = log(sums.plain) - ((double)x[label] - most);
    by.by_plain = (float)(all->by_hard / sums.plain);
  }
  if (kind >= DENSE && kind < TOP) soft = dense(all, own, &sums, &by);
  if (kind == TOP) {
    double log_tail = all->log_tail[row];
    for (int64_t each = 0; each < some; each++) {
      double log_p = log_probs[each], one = exp(log_p), log_q = (x[ids[each]] - (double)most) * all->inverse - normaliser;
      mass += one;
      if (!(one == 0)) soft += one * ((all->entropies ? log_p : 0) - log_q);
      kept[each] = q[ids[each]];
      q[ids[each]] = 0;
    }
    rest = sum_of(q, classes); /* not 1 less what is kept, which would cancel */
    tail = exp(log_tail);
    mass += tail;
    if (!(tail == 0)) soft += tail * ((all->entropies ? log_tail : 0) - (log(rest) - normaliser));
    if (!(rest > 0)) soft = NAN; /* no mass is left, or too little to be seen */
    if (all->entropies && !(fabs(mass - 1) < 1e-5)) soft = NAN; /* no distribution: tiles know what is made of it */
    by.by_q = (float)(all->by_soft * (mass / sums.student - tail / rest));
  }
  if (kind == DRAWS) {
    for (int64_t each = 0; each < some; each++) soft -= (x[ids[each]] - (double)most) * all->inverse;
    soft = normaliser + soft / some;
  }
  if (kind != NONE) all->soft[row] = (float)soft;
  if (power >= 0) all->hard[row] = (float)hard;
  if (!isfinite((float)soft) || !isfinite((float)hard) || !isfinite(by.by_q) || !isfinite(by.by_plain)) {
    if (all->soft) all->soft[row] = NAN; /* the caller computes such a row by another way, from its logits */
    if (all->hard) all->hard[row] = NAN;
    return;
  }
  if (!gradient) return;
  write_gradient(own, gradient, by, classes);
  for (int64_t each = 0; kind == TOP && each < some; each++) {
    q[ids[each]] = kept[each];
    double found = all->by_soft * (mass * kept[each] / sums.student - exp((double)log_probs[each]));
    if (power >= 0) found += (double)plain_of(own, ids[each]) * by.by_plain;
    gradient[ids[each]] = (float)found;
  }
  for (int64_t each = 0; kind == DRAWS && each < some; each++) gradient[ids[each]] -= all->by_soft / some;
  if (power >= 0) gradient[label] -= all->by_hard;
}

void limbeck_rows(const Rows *all) {
  for (int64_t row = 0; row < all->rows; row++) {
    int kind = (int)all->kind, power = (int)all->power;
    if (all->soft_counts && !all->soft_counts[row]) kind = NONE;
    if (!all->labels || (all->hard_counts && !all->hard_counts[row])) power = -1;
    if (all->soft) all->soft[row] = 0;
    if (all->hard) all->hard[row] = 0;
    if (kind == NONE && power < 0) {
      if (all->gradient) memset(all->gradient + row * all->classes, 0, sizeof(float) * all->classes);
      continue;
    }
    switch (kind) { /* a copy of the code for each, without a question inside its loops */
      case NONE: one_row(all, row, NONE, 1); break;
      case DENSE: one_row(all, row, DENSE, power); break;
      case REVERSE: one_row(all, row, REVERSE, power); break;
      case JENSEN_SHANNON: one_row(all, row, JENSEN_SHANNON, power); break;
      case SKEWED: one_row(all, row, SKEWED, power); break;
      case VARIATION: one_row(all, row, VARIATION, power); break;
      case TOP: one_row(all, row, TOP, power); break;
      default: one_row(all, row, DRAWS, power);
    }
  }
}
