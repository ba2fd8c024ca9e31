// Blocks of code that scroll sideways can be reached with the keyboard.
const reachable = () => {
  for (const code of document.querySelectorAll("pre > code, .md-typeset__scrollwrap")) {
    if (code.scrollWidth > code.clientWidth) code.tabIndex = 0;
  }
};
window.addEventListener("load", reachable);
window.addEventListener("resize", reachable);
