"use strict";
// The temperature slider: softmax(logits / T) for every example of its section.
(() => {
  const percent = (p) => (p >= 0.9995 ? "100 %" : p >= 0.0005 ? (100 * p).toFixed(1) + " %" : "<0.1 %");

  // counts: of how many classes each logit is; their shares are of one class.
  const softmax = (logits, temperature, counts) => {
    const highest = Math.max(...logits);
    const parts = logits.map((logit) => Math.exp((logit - highest) / temperature));
    const total = parts.reduce((sum, part, i) => sum + part * counts[i], 0);
    return parts.map((part) => part / total);
  };

  const entropy = (shares, counts) => shares.reduce((sum, p, i) => (p > 0 ? sum - counts[i] * p * Math.log(p) : sum), 0);

  const sigmoid = (logits, temperature) => logits.map((logit) => 1 / (1 + Math.exp(-logit / temperature)));

  // Classes share a whole, but where labels stand apart each is yes or no by itself.
  const show = (example, temperature, apart) => {
    const logits = JSON.parse(example.dataset.logits);
    const rest = JSON.parse(example.dataset.rest);
    const counts = logits.map(() => 1).concat("counts" in example.dataset ? JSON.parse(example.dataset.counts) : rest.map(() => 1));
    const shares = (apart ? sigmoid : softmax)(logits.concat(rest), temperature, counts);
    const nats = entropy(shares, counts) + (apart ? entropy(shares.map((share) => 1 - share), counts) : 0);
    const said = [];
    example.querySelectorAll(".bar").forEach((bar, i) => {
      const others = bar.classList.contains("others");
      const share = others ? shares.slice(logits.length).reduce((sum, p, j) => sum + p * counts[logits.length + j], 0) : shares[i];
      bar.dataset.probability = share;
      bar.querySelector(".fill").style.width = (100 * share).toFixed(2) + "%";
      bar.querySelector(".value").textContent = percent(share);
      if (i < 3) said.push(bar.dataset.name + " " + percent(share));
    });
    example.querySelector(".nats").textContent = nats.toFixed(2);
    if (!apart) example.querySelector(".spread").textContent = Math.exp(nats).toFixed(1);
    example
      .querySelector(".bars")
      .setAttribute("aria-label", `At temperature ${temperature}: ${said.join(", ")}; entropy ${nats.toFixed(2)} nats`);
  };

  document.querySelectorAll(".explorer").forEach((explorer) => {
    const slider = explorer.querySelector("input");
    const steps = JSON.parse(slider.dataset.temperatures);
    const markers = explorer.closest("section").querySelectorAll(".marker");
    const update = () => {
      const temperature = steps[Number(slider.value)];
      slider.setAttribute("aria-valuetext", "temperature " + temperature);
      explorer.querySelector(".reading strong").textContent = temperature;
      const apart = "apart" in explorer.dataset;
      explorer.querySelectorAll(".example").forEach((example) => show(example, temperature, apart));
      markers.forEach((marker) => {
        const { left, right, low, high } = marker.dataset;
        const place = Math.log(temperature / low) / Math.log(high / low);
        const at = Number(left) + Math.min(Math.max(place, 0), 1) * (right - left);
        marker.setAttribute("x1", at);
        marker.setAttribute("x2", at);
      });
    };
    slider.addEventListener("input", update);
    update();
  });
})();
// What scrolls sideways says so, and can be scrolled with the keyboard.
(() => {
  const heed = (region) => {
    const over = region.scrollWidth > region.clientWidth + 1;
    const before = region.previousElementSibling;
    const cue = before && before.classList.contains("cue") ? before : null;
    if (over && !cue) {
      const line = document.createElement("p");
      line.className = "cue";
      line.setAttribute("aria-hidden", "true");
      line.textContent = "Scroll sideways for more →";
      region.before(line);
    } else if (!over && cue) cue.remove();
    if (region.classList.contains("strip")) region.tabIndex = over ? 0 : -1;
  };
  const watcher = new ResizeObserver((entries) => entries.forEach((entry) => heed(entry.target)));
  document.querySelectorAll(".scroll, .strip").forEach((region) => watcher.observe(region));

  // A link to a run opens it.
  const open = () => {
    const target = document.getElementById(location.hash.slice(1));
    const closed = target && target.closest("details:not([open])");
    if (!closed) return;
    closed.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  open();
})();
