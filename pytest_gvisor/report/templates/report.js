"use strict";
(() => {
  // Megabytes, of which nothing is shown before a cell opens.
  let parsed = null;
  const details = () => {
    parsed ??= JSON.parse(document.getElementById("data").textContent);
    return parsed;
  };
  const rows = [...document.querySelectorAll("#matrix tbody tr")];
  const boxes = [...document.querySelectorAll("input[name=state]")];
  const only = document.getElementById("only-differing");
  const text = document.getElementById("text");
  const shown = document.getElementById("shown");
  const dialog = document.getElementById("detail");
  const title = document.getElementById("detail-title");
  const body = document.getElementById("detail-body");

  const filter = () => {
    const wanted = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const words = text.value.toLowerCase();
    let count = 0;
    for (const row of rows) {
      const fits = (!only.checked || row.dataset.differs === "1") &&
        row.dataset.states.split(" ").some((state) => wanted.has(state)) &&
        row.firstElementChild.textContent.toLowerCase().includes(words);
      row.hidden = !fits;
      count += fits ? 1 : 0;
    }
    shown.textContent = `${count} of ${rows.length} tests`;
  };

  const order = document.getElementById("order");
  const arrange = () => {
    const wanted = order.value;
    const sign = wanted === "row" ? 1 : -1;
    const sorted = wanted
      ? [...rows].sort((one, two) => sign * (one.dataset[wanted] - two.dataset[wanted]))
      : rows;
    document.querySelector("#matrix tbody").append(...sorted);
  };

  // Everything that is shown goes through textContent: none of it can become markup.
  const add = (parent, name, content) => {
    const made = document.createElement(name);
    if (content !== undefined) made.textContent = content;
    parent.append(made);
    return made;
  };

  const fold = (parent, name, content, open) => {
    const made = add(parent, "details");
    made.open = open;
    add(made, "summary", name);
    add(made, "pre", content).tabIndex = 0;
  };

  // Lines may break where words of a node id end.
  const breakable = (parent, words) => {
    parent.replaceChildren();
    for (const part of words.split(/(?<=::|[/_])/)) {
      parent.append(part);
      add(parent, "wbr");
    }
  };

  // Some frames may not write to the clipboard: the older way, or else a selection, remains.
  const copier = (parent) => {
    const command = parent.firstChild;
    const button = add(parent, "button", "copy");
    button.type = "button";
    button.className = "copy";
    button.addEventListener("click", () => {
      const refused = () => {
        getSelection().setBaseAndExtent(command, 0, command, command.length);
        button.textContent = document.execCommand("copy") ? "copied" : "selected";
      };
      const copied = () => { button.textContent = "copied"; };
      if (navigator.clipboard) navigator.clipboard.writeText(command.data).then(copied, refused);
      else refused();
    });
  };

  // An address names the open cell. A frame without an address of its own goes without.
  const setAddress = (words) => {
    try {
      history.replaceState(null, "", words ? `#${words}` : location.pathname + location.search);
    } catch { /* The cell is open all the same. */ }
  };

  const column = (parent, found, level) => {
    const list = add(parent, "dl");
    for (const [name, value] of found.facts) {
      add(list, "dt", name);
      const shown = add(list, "dd", value);
      if (name === "again") copier(shown);
    }
    for (const [name, value] of found.output) fold(parent, name, value, true);
    found.runs.forEach((run, number) => {
      add(parent, level, found.runs.length > 1 ? `sandbox ${number + 1}` : "sandbox");
      for (const [name, value] of run) {
        fold(parent, name, value, name !== "config.json" && name !== "runsc's command line");
      }
    });
  };

  const differences = (parent, one, two) => {
    // Where one of the two had no sandbox, as on the host, there are no streams to compare.
    const ran = one.runs.length && two.runs.length;
    const outputs = (found) => new Map([...found.output, ...(ran ? found.runs.at(-1) : [])]);
    const [before, after] = [outputs(one), outputs(two)];
    for (const name of ["standard output", "standard error", "what it did", "captured output"]) {
      const texts = [before.get(name) ?? "", after.get(name) ?? ""];
      if (texts[0] === texts[1]) {
        if (texts[0]) add(parent, "p", `${name}: the same`);
        continue;
      }
      const lines = lineDiff(...texts);
      add(parent, "p", lines ? `${name}:` : `${name}: different, and too long to compare here`);
      if (!lines) continue;
      const shown = add(parent, "pre");
      shown.className = "diff";
      shown.tabIndex = 0;
      for (const [mark, line] of lines) {
        const made = add(shown, { "-": "del", "+": "ins", " ": "span" }[mark], `${mark} ${line}`);
        made.append("\n");
      }
    }
  };

  // Two platforms stand side by side; in a narrow window one is below the other.
  const sides = (parent, cells, names) => {
    const outputs = add(parent, "section");
    add(outputs, "h3", `Outputs: - ${names[0]}, + ${names[1]}`);
    differences(outputs, ...names.map((name) => cells[name]));
    if (outputs.childElementCount === 1) outputs.remove();
    const pair = add(parent, "div");
    pair.className = "sides";
    for (const name of names) {
      const side = add(pair, "section");
      add(side, "h3", `${name}: ${cells[name].state}`);
      column(side, cells[name], "h4");
    }
  };

  const chooser = (parent, names, chosen) => {
    const label = add(parent, "label", "compared with ");
    const select = add(label, "select");
    for (const name of ["", ...names]) add(select, "option", name || "nothing").value = name;
    select.value = chosen;
    return select;
  };

  let opened = null;
  const open = (cell) => {
    opened = cell;
    const row = cell.closest("tr");
    const cells = details()[row.dataset.row];
    const platform = cell.dataset.platform;
    const found = cells[platform];
    setAddress(new URLSearchParams({ test: row.dataset.test, platform }));
    breakable(title, found.title);
    body.replaceChildren();
    const others = Object.keys(cells).filter((name) => name !== platform);
    const select = others.length ? chooser(body, others, found.against) : null;
    const content = add(body, "div");
    const show = () => {
      content.replaceChildren();
      if (select && select.value) sides(content, cells, [select.value, platform]);
      else column(content, found, "h3");
    };
    if (select) select.addEventListener("change", show);
    show();
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    title.focus();
  };

  // Arrow keys go from cell to cell, as in a spreadsheet; hidden rows are passed over.
  const steps = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
  const move = (event) => {
    const step = steps[event.key];
    const button = event.target.closest("button");
    if (!step || !button) return;
    event.preventDefault();
    let row = button.closest("tr");
    let place = [...row.children].indexOf(button.closest("td"));
    for (;;) {
      if (step[1]) {
        place += step[1];
      } else {
        do {
          row = step[0] > 0 ? row.nextElementSibling : row.previousElementSibling;
        } while (row && row.hidden);
      }
      const cell = row && row.children[place];
      if (!cell) return;
      const next = cell.querySelector("button");
      if (next) {
        next.focus();
        return;
      }
    }
  };

  const matrix = document.getElementById("matrix");
  matrix.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) open(button);
  });
  matrix.addEventListener("keydown", move);
  document.getElementById("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    setAddress("");
    opened.focus();
  });

  const follow = () => {
    const wanted = new URLSearchParams(location.hash.slice(1));
    const row = rows.find((one) => one.dataset.test === wanted.get("test"));
    const buttons = row ? [...row.querySelectorAll("button")] : [];
    const cell = buttons.find((one) => one.dataset.platform === wanted.get("platform"));
    if (cell) open(cell);
  };
  window.addEventListener("hashchange", follow);
  const form = document.getElementById("filters");
  form.addEventListener("input", filter);
  order.addEventListener("change", arrange);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
  follow();
})();
