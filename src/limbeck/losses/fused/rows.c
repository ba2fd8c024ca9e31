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
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* in memory */

enum { NONE, DENSE, TOP, DRAWS };

typedef struct {
  int64_t rows, classes, kind, entropies, power, some;
  const float *logits, *teacher;
  float *gradient;
  const int64_t *labels, *ids;
  const float *log_probs, *log_tail;
  const uint8_t *soft_counts, *hard_counts;
  float *soft, *hard, *room;
  float inverse, by_soft, by_hard;
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
  ints scale = ((ints)moved - 0x4B400000 + 127) << 23;
  return where(~(ints)(x < -87.0f), sum * (floats)scale);
}

static inline floats power_of(floats x, int power) {
  if (power >= 2) x = x * x;
  if (power >= 4) x = x * x;
  return x;
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
  int dense, entropies, power;
} Row;

/* Fill q (and p and plain) with e to `left` logits less the largest, and add them up.  gap: of p(log p - log q) or
   -p log q, but for the normalisers. */
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
  if (row.dense) {
    floats other = (whole ? load(row.z + at) : load_some(row.z + at, left, row.others)) - row.others;
    floats target = other * row.inverse, mass = exponential(target);
    PUT(row.p, mass)
    parts->teacher += mass;
    /* a class of no mass has no part in it, though its logit is -inf; a mass that is no number has one */
    parts->gap += where(~(ints)(mass == 0.0f), mass * (row.entropies ? target - scaled : -scaled));
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

/* gradient = by_q (q - ratio p) + by_plain (q^power, or plain): exactly 0 for equal logits without labels */
static inline __attribute__((always_inline)) void write_gradient(
    float *gradient, const float *q, const float *p, const float *plain, float by_q, float ratio, float by_plain,
    int64_t classes, int dense, int power) {
  int64_t at = 0;
  for (; at + LANES <= classes; at += LANES) {
    floats some = load(q + at);
    floats found = (dense ? some - load(p + at) * ratio : some) * by_q;
    if (power > 0) found += power_of(some, power) * by_plain;
    if (power == 0) found += load(plain + at) * by_plain;
    store(gradient + at, found);
  }
  for (; at < classes; at++) {
    float some = q[at], square = some * some;
    float found = (dense ? some - p[at] * ratio : some) * by_q;
    if (power > 0) found += (power == 1 ? some : power == 2 ? square : square * square) * by_plain;
    if (power == 0) found += plain[at] * by_plain;
    gradient[at] = found;
  }
}

/* kind: of the soft target.  power: q at T = 1 is q at T to this power; 0 where it is made by itself, -1 without. */
static inline __attribute__((always_inline)) void one_row(const Rows *all, int64_t row, int kind, int power) {
  int64_t classes = all->classes, some = all->some;
  const float *x = all->logits + row * classes;
  const float *z = kind == DENSE ? all->teacher + row * classes : x;
  const int64_t *ids = kind >= TOP ? all->ids + row * some : 0;
  float *q = all->room, *p = q + classes, *plain = p + classes, *kept = plain + classes;
  float *gradient = all->gradient ? all->gradient + row * classes : 0;
  float inverse = kind == NONE ? 1.0f : all->inverse;
  float most = largest(x, classes), others = kind == DENSE ? largest(z, classes) : 0;
  const Row own = {x, z, q, p, plain, most, others, inverse, kind == DENSE, (int)all->entropies, power};
  Sums sums = exponentials(own, classes);
  double normaliser = log(sums.student), soft = 0, hard = 0, mass = 0, tail = 0, rest = 1;
  float by_q = (float)(all->by_soft / sums.student), ratio = 0, by_plain = 0;
  int64_t label = power >= 0 ? all->labels[row] : 0;

  if (power >= 0) {
    hard = log(sums.plain) - ((double)x[label] - most);
    by_plain = (float)(all->by_hard / sums.plain);
  }
  if (kind == NONE) by_q = 0;
  if (kind == DENSE) {
    soft = sums.gap / sums.teacher + normaliser - (all->entropies ? log(sums.teacher) : 0);
    ratio = (float)(sums.student / sums.teacher);
  }
  if (kind == TOP) {
    const float *log_probs = all->log_probs + row * some;
    double log_tail = all->log_tail[row];
    for (int64_t each = 0; each < some; each++) {
      double log_p = log_probs[each], one = exp(log_p), log_q = (x[ids[each]] - (double)most) * inverse - normaliser;
      mass += one;
      if (one > 0) soft += one * ((all->entropies ? log_p : 0) - log_q);
      kept[each] = q[ids[each]];
      q[ids[each]] = 0;
    }
    rest = sum_of(q, classes); /* not 1 less what is kept, which would cancel */
    tail = exp(log_tail);
    mass += tail;
    if (tail > 0) soft += tail * ((all->entropies ? log_tail : 0) - (log(rest) - normaliser));
    if (!(rest > 0)) soft = NAN; /* no mass is left, or too little to be seen */
    by_q = (float)(all->by_soft * (mass / sums.student - tail / rest));
  }
  if (kind == DRAWS) {
    for (int64_t each = 0; each < some; each++) soft -= (x[ids[each]] - (double)most) * inverse;
    soft = normaliser + soft / some;
  }
  if (kind != NONE) all->soft[row] = (float)soft;
  if (power >= 0) all->hard[row] = (float)hard;
  if (!gradient || !isfinite(soft) || !isfinite(hard)) return; /* the caller computes such a row by another way */

  write_gradient(gradient, q, p, plain, by_q, ratio, by_plain, classes, kind == DENSE, power);
  if (kind == TOP) {
    const float *log_probs = all->log_probs + row * some;
    for (int64_t each = 0; each < some; each++) {
      double some_q = kept[each], square = some_q * some_q;
      double found = all->by_soft * (mass * some_q / sums.student - exp((double)log_probs[each]));
      if (power > 0) found += (power == 1 ? some_q : power == 2 ? square : square * square) * by_plain;
      if (power == 0) found += (double)plain[ids[each]] * by_plain;
      gradient[ids[each]] = (float)found;
    }
  }
  if (kind == DRAWS) {
    float share = all->by_soft / some;
    for (int64_t each = 0; each < some; each++) gradient[ids[each]] -= share;
  }
  if (power >= 0) gradient[label] -= all->by_hard;
}

#define KINDS(power)                                                                                                  \
  switch (kind) {                                                                                                     \
    case NONE: one_row(all, row, NONE, power); break;                                                                 \
    case DENSE: one_row(all, row, DENSE, power); break;                                                               \
    case TOP: one_row(all, row, TOP, power); break;                                                                   \
    default: one_row(all, row, DRAWS, power);                                                                         \
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
    if (kind == NONE) power = 1;
    switch (power) {
      case -1: KINDS(-1) break;
      case 0: KINDS(0) break;
      case 1: KINDS(1) break;
      case 2: KINDS(2) break;
      default: KINDS(4)
    }
  }
}
