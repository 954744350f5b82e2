// dbb-report: finds files by part of their name in the data beside this page, and says when the page is old.
"use strict";
(() => {
  const MOST = 100;
  const body = document.body, form = document.querySelector(".search"), box = form.querySelector("input");
  const found = document.getElementById("found"), hits = document.getElementById("hits");
  const list = found.querySelector("ol"), nights = body.dataset.nights.split(" ").filter(Boolean);
  const files = new Map(), waiting = new Map();
  let turn = 0;

  // Each file of data calls this with its night, and lists of state, directory and names.
  window.dbbFiles = (night, found) => files.set(night, found);

  const load = (night) => {
    if (!waiting.has(night)) {
      waiting.set(night, new Promise((done) => {
        const script = document.createElement("script");
        script.src = `night-${night}.js`;
        script.onload = script.onerror = done;
        document.head.append(script);
      }));
    }
    return waiting.get(night);
  };

  const show = (night, path, state) => {
    const item = document.createElement("li"), name = document.createElement("span");
    name.className = "name";
    name.textContent = path;
    const link = document.createElement("a");
    link.href = `night-${night}.html`;
    link.textContent = night;
    const where = document.createElement("span");
    where.className = "quiet";
    where.append(" ", state, "; night ", link);
    item.append(name, where);
    list.append(item);
  };

  const search = async () => {
    const mine = ++turn, part = box.value.trim().toLowerCase();
    found.hidden = !part;
    list.replaceChildren();
    if (!part) return;
    let count = 0, looked = 0, unread = 0;
    for (const night of nights) {
      hits.textContent = `Looking in ${night} …`;
      await load(night);
      if (mine !== turn) return;
      looked++;
      if (!files.has(night)) unread++;
      for (const [state, directory, names] of files.get(night) ?? []) {
        for (const name of names) {
          const path = directory ? `${directory}/${name}` : name;
          if (path.toLowerCase().includes(part) && ++count <= MOST) show(night, path, state);
        }
      }
      if (count > MOST) break;
    }
    hits.textContent = (count > MOST ? `More than ${MOST} files: here are ${MOST} of them; type more of the name.`
      : count === 1 ? "1 file." : `${count || "No"} files.`)
      + ` Nights looked at: ${looked}.` + (unread ? ` Could not be read: ${unread}.` : "")
      + (count ? " More of one: dbb history PATH" : "");
  };

  let timer;
  box.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, 150); });
  form.addEventListener("submit", (event) => { event.preventDefault(); search(); });
  form.hidden = !nights.length;

  const old = document.getElementById("old");
  const age = () => {
    const minutes = Math.floor((Date.now() - Date.parse(body.dataset.made)) / 60000);
    old.hidden = minutes < 60;
    old.textContent = `This page is ${minutes < 120 ? `${minutes} min` : minutes < 2880 ? `${Math.floor(minutes / 60)} h`
      : `${Math.floor(minutes / 1440)} d`} old: what it says may no longer be true.`;
  };
  if (old) { age(); setInterval(age, 60000); }
})();
