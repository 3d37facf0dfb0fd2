// A button on each block of code that copies it: without prompts of a console or of Python, and without what was printed.
document.addEventListener("DOMContentLoaded", () => {
  for (const block of document.querySelectorAll("div.highlight")) {
    const kind = block.parentElement.className;
    if (!/highlight-(python|pycon|console|default)/.test(kind)) continue;
    const button = document.createElement("button");
    button.className = "copy";
    button.textContent = "copy";
    button.addEventListener("click", async () => {
      const text = block.querySelector("pre").textContent;
      const prompted = /^(\$|>>>) /m.test(text);
      const lines = text.split("\n").filter((line) => !prompted || /^(\$|>>>|\.\.\.) ?|^\s+--/.test(line));
      await navigator.clipboard.writeText(lines.map((line) => line.replace(/^(\$|>>>|\.\.\.) ?/, "")).join("\n").trimEnd() + "\n");
      button.textContent = "copied";
      setTimeout(() => (button.textContent = "copy"), 1500);
    });
    block.append(button);
  }
});
