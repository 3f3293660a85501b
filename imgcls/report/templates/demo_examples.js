// Pressing an example reports its index to Python.
element.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (button) trigger("select", { index: Number(button.dataset.index) });
});
