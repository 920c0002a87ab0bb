"use strict";
// Each comparison lies over pictures that the page already holds; without this script they stand side by side.
for (const comparison of document.querySelectorAll(".slide")) {
  const pictures = comparison.closest(".image").querySelectorAll("[data-picture]");
  for (const picture of pictures) {
    const over = comparison.querySelector(`[data-from="${picture.dataset.picture}"]`);
    if (over) over.src = picture.src;
  }
  const range = comparison.querySelector("input");
  const said = comparison.querySelector("output");
  const show = () => {
    comparison.style.setProperty("--cut", `${range.value}%`);
    said.value = `${range.value} % anonymized`;
    range.setAttribute("aria-valuetext", said.value);
  };
  range.addEventListener("input", show);
  show();
  comparison.hidden = false;
}
