"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);

  // Widths of bars are data: the page's policy allows no style attributes that markup could smuggle in.
  for (const part of document.querySelectorAll("[data-w]")) part.style.width = part.dataset.w + "%";

  // A name in a key lights its lines up in the charts that follow.
  for (const key of document.querySelectorAll(".key")) {
    const charts = key.nextElementSibling;
    let lit = null;
    const show = (name) => {
      charts.classList.toggle("dimmed", name !== null);
      for (const line of charts.querySelectorAll(".line")) line.classList.toggle("lit", line.dataset.series === name);
      for (const button of key.querySelectorAll("button")) button.classList.toggle("off", name !== null && button.dataset.series !== name);
    };
    for (const button of key.querySelectorAll("button")) {
      button.addEventListener("mouseenter", () => show(button.dataset.series));
      button.addEventListener("mouseleave", () => show(lit));
      button.addEventListener("click", () => show((lit = lit === button.dataset.series ? null : button.dataset.series)));
    }
  }

  if (!$("browser")) return;

  const SOURCES = { __proto__: null, self: "self", guided: "guided", teacher: "teacher", expert: "expert", "": "no target" };
  const VERDICTS = { __proto__: null, correct: "✓ correct", incorrect: "✗ incorrect", no_answer: "no answer", unparsed: "not readable", budget_exceeded: "judge gave up" };
  const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const ROW = 64;
  const problems = data.problems;

  // Building blocks. Text from tables only ever enters through textContent.
  const el = (tag, cls, ...children) => {
    const node = document.createElement(tag);
    if (cls) node.className = cls;
    node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return node;
  };
  const logprob = (digit) => { const root = DIGITS.indexOf(digit) / 16; return -root * root; };
  const meanLogprob = (tokens, policy) => {
    const digits = tokens && tokens.p && tokens.p[policy];
    if (!digits) return null;
    let sum = 0;
    for (const digit of digits) sum += logprob(digit);
    return sum / digits.length;
  };
  const heat = (lp) => { const p = Math.exp(lp); return p >= 0.9 ? 0 : p >= 0.5 ? 1 : p >= 0.2 ? 2 : p >= 0.05 ? 3 : p >= 0.01 ? 4 : 5; };
  const percent = (lp) => { const p = Math.exp(lp); return p < 0.001 ? p.toExponential(0) : p.toPrecision(2); };

  // A text with its tokens coloured by how improbable they are.
  const text = (tokens, policy) => {
    const out = el("p", "text");
    const digits = tokens.p && tokens.p[policy];
    if (!tokens.n || !digits) { out.append(tokens.t); return out; }
    let at = 0, index = 0;
    for (let i = 0; i < tokens.n.length; i++) {
      let length = DIGITS.indexOf(tokens.n[i]);
      while (DIGITS.indexOf(tokens.n[i]) === 63) length += DIGITS.indexOf(tokens.n[++i]);
      const piece = tokens.t.slice(at, at + length);
      at += length;
      if (index >= digits.length) { out.append(piece); continue; }
      const lp = logprob(digits[index++]);
      if (!piece) continue;
      const token = el("span", "tok h" + heat(lp), piece);
      if (/^<[^<>\s]+>$/.test(piece)) token.classList.add("special");
      token.dataset.tip = "p = " + percent(lp) + "   log p = " + lp.toFixed(2);
      out.append(token);
    }
    return out;
  };

  // Filters and order.
  const state = { query: "", source: null, verdict: "", order: "", cascade: null, policy: 0, plain: false, id: null };
  let found = [], selected = null;
  const haystacks = new Map();
  const haystack = (problem) => {
    if (!haystacks.has(problem)) {
      const samples = problem.plain.concat(problem.guided, problem.teacher, problem.targets).map((sample) => sample.t + " " + (sample.x || ""));
      haystacks.set(problem, [problem.id, problem.q, problem.a, problem.expert ? problem.expert.t : "", ...samples].join("\n").toLowerCase());
    }
    return haystacks.get(problem);
  };
  const likelihood = { target: (p) => meanLogprob(p.targets[0], 0), expert: (p) => meanLogprob(p.expert, 0) };
  const matches = (problem, but) =>
    (state.cascade === null || problem.c === state.cascade) &&
    (but === "source" || state.source === null || problem.s === state.source) &&
    (!state.verdict || problem.plain.some((s) => s.v === state.verdict) || problem.guided.some((s) => s.v === state.verdict) || problem.teacher.some((s) => s.v === state.verdict)) &&
    (!state.query || state.query.split(/\s+/).every((word) => haystack(problem).includes(word)));

  const refresh = () => {
    found = problems.filter((problem) => matches(problem));
    const rank = likelihood[state.order];
    if (rank) {
      const keyed = found.map((problem) => [rank(problem), problem]);
      keyed.sort((a, b) => (a[0] === null) - (b[0] === null) || a[0] - b[0]);
      found = keyed.map((pair) => pair[1]);
    }
    chips();
    $("rows").style.height = Math.max(found.length * ROW, 1) + "px";
    $("list").scrollTop = 0;
    draw();
    if (!found.includes(selected)) select(found[0] || null, false);
  };

  const chips = () => {
    const counts = new Map();
    const base = problems.filter((problem) => matches(problem, "source"));
    for (const problem of base) counts.set(problem.s, (counts.get(problem.s) || 0) + 1);
    const chip = (label, source, count) => {
      const button = el("button", "", source ? el("i", "swatch s-" + source) : "", label + " " + count);
      button.type = "button";
      button.setAttribute("aria-pressed", String(state.source === source));
      button.addEventListener("click", () => { state.source = source; refresh(); });
      return button;
    };
    const known = Object.keys(SOURCES).filter((source) => problems.some((problem) => problem.s === source));
    const cascades = data.cascades.length < 2 ? [] : data.cascades.map((name, index) => {
      const button = el("button", "", name);
      button.type = "button";
      button.setAttribute("aria-pressed", String(state.cascade === index));
      button.addEventListener("click", () => { state.cascade = state.cascade === index ? null : index; refresh(); });
      return button;
    });
    $("sources").replaceChildren(chip("all", null, base.length), ...known.map((source) => chip(SOURCES[source], source, counts.get(source) || 0)), ...cascades);
  };

  // The list draws only the rows in sight.
  const draw = () => {
    const list = $("list");
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
    const last = Math.min(found.length, first + Math.ceil(list.clientHeight / ROW) + 8);
    const rows = [];
    for (let i = first; i < last; i++) {
      const problem = found[i];
      const right = (samples) => samples.filter((sample) => sample.v === "correct").length + "/" + samples.length;
      const sub = el("div", "sub", el("b", "", SOURCES[problem.s]),
        problem.plain.length ? el("span", "", "alone " + right(problem.plain)) : "",
        problem.guided.length ? el("span", "", "guided " + right(problem.guided)) : "",
        el("span", "", "answer " + problem.a));
      const row = el("div", "item s-" + (problem.s || "none"), el("p", "", problem.q), sub);
      row.style.top = i * ROW + "px";
      row.setAttribute("role", "option");
      row.setAttribute("aria-selected", String(problem === selected));
      row.addEventListener("click", () => select(problem, true));
      rows.push(row);
    }
    if (!found.length) rows.push(el("p", "empty", "No problem fits these filters."));
    $("rows").replaceChildren(...rows);
  };

  // One problem, in the order in which it happened.
  const verdict = (sample) => {
    const cls = sample.v === "correct" ? "ok" : sample.v === "incorrect" ? "bad" : "odd";
    return el("span", "v " + cls, VERDICTS[sample.v] || sample.v || "not judged");
  };
  const METHODS = { __proto__: null, string: "the same text", rational: "compared as exact fractions", numeric: "compared as numbers", algebra: "compared by algebra", identity: "tested at random points" };
  const method = (name) => {
    const [where, how] = name.split("/");
    return how ? (where === "boxed" ? "read from the box, " : "read from the " + where + ", ") + (METHODS[how] || how) : name;
  };
  const why = (sample, problem) => {
    const parts = [verdict(sample)];
    if (sample.x !== undefined && sample.v === "incorrect") parts.push(el("span", "", "says ", el("code", "", sample.x), ", expected ", el("code", "", problem.a)));
    else if (sample.x !== undefined) parts.push(el("span", "", "says ", el("code", "", sample.x)));
    if (sample.m) { const how = el("small", "", method(sample.m)); how.dataset.tip = sample.m; parts.push(how); }
    if (sample.stop === "max_tokens") parts.push(el("small", "", "cut off at the token limit"));
    if (sample.v === "correct" && sample.r) parts.push(el("small", "", "refused as a target: " + sample.r));
    return parts;
  };
  const card = (sample, problem, source) => {
    const chosen = problem.s === source && problem.targets.some((target) => target.i === sample.i && target.t.startsWith(sample.t.slice(0, 40)));
    const head = el("div", "why", el("small", "", (sample.stage ? sample.stage + " " : "sample ") + sample.i), ...why(sample, problem), chosen ? el("span", "pick", "→ becomes the target") : "");
    return el("div", "card" + (chosen ? " chosen s-" + source : ""), head, text(sample, state.plain ? -1 : 0));
  };
  const step = (cls, title, note, ...children) => el("div", "step " + cls, el("h4", "", title, " ", el("small", "", note)), ...children);
  const count = (samples) => samples.length + (samples.length === 1 ? " sample, " : " samples, ") + samples.filter((s) => s.v === "correct").length + " correct";

  const tools = () => {
    const button = (label, on, set) => {
      const node = el("button", "", label);
      node.type = "button";
      node.setAttribute("aria-pressed", String(on));
      node.addEventListener("click", () => { set(); show(selected); });
      return node;
    };
    const names = data.policies.map((name, index) => button(name, !state.plain && state.policy === index, () => { state.policy = index; state.plain = false; }));
    const legend = ["p ≥ 0.9", "0.5", "0.2", "0.05", "0.01", "less"].map((label, index) => el("span", "tok h" + index, label));
    return el("div", "tools", "Tokens coloured by their probability under", el("span", "chips", ...names, button("off", state.plain, () => { state.plain = true; })), el("span", "legend", ...legend));
  };
  const scored = (title, tokens) => {
    const means = data.policies.map((name, index) => [name, meanLogprob(tokens, index)]).filter((pair) => pair[1] !== null);
    const note = means.map(([name, mean]) => name + " " + mean.toFixed(3)).join(" · ");
    return el("div", "card", el("h5", "", title, note ? el("small", "", " mean log p: " + note) : ""), text(tokens, state.plain ? -1 : state.policy));
  };

  const meta = (json) => {
    try { return Object.entries(JSON.parse(json)).map(([key, value]) => key + " " + (typeof value === "string" ? value : JSON.stringify(value))).join(" · "); }
    catch { return json; }
  };
  const show = (problem) => {
    const detail = $("detail");
    if (!problem) { detail.replaceChildren(el("p", "empty", "Choose a problem.")); return; }
    const back = el("button", "back", "← all problems");
    back.type = "button";
    back.addEventListener("click", () => { $("browser").classList.remove("open"); draw(); $("problems").scrollIntoView(); });
    const source = problem.s || "none";
    const parts = [back,
      el("div", "head", el("span", "badge s-" + source, SOURCES[problem.s]), el("code", "", problem.id), data.cascades.length > 1 ? data.cascades[problem.c] : "", problem.meta ? el("span", "", meta(problem.meta)) : ""),
      el("h3", "", problem.q),
      el("p", "gold", "Expected answer ", el("code", "", problem.a))];
    if (problem.plain.length) parts.push(step("s-self", "1 · The policy alone", count(problem.plain), ...problem.plain.map((s) => card(s, problem, "self"))));
    if (problem.guided.length) {
      const prompt = problem.prompt ? el("details", "", el("summary", "", "the guided prompt"), el("pre", "", problem.prompt)) : "";
      parts.push(step("s-guided", "2 · With the expert's solution in the prompt", count(problem.guided), prompt, ...problem.guided.map((s) => card(s, problem, "guided"))));
    }
    if (problem.teacher.length) parts.push(step("s-teacher", "3 · From elsewhere", count(problem.teacher), ...problem.teacher.map((s) => card(s, problem, "teacher"))));
    const targets = problem.targets.map((target) => scored(target.s === "expert" ? "Target: the expert's solution, kept" : "Target: " + target.s + " sample " + target.i, target));
    const expert = problem.expert && problem.s !== "expert" ? scored("The expert's solution", problem.expert) : "";
    const titles = { self: "→ Trained on its own solution", guided: "→ Trained on its guided solution", teacher: "→ Trained on a solution from elsewhere", expert: "→ Trained on the expert's solution", "": "No target yet, or none to be had" };
    parts.push(step("s-" + source, titles[problem.s], problem.targets.length ? "given the plain problem" : "", data.policies.length ? tools() : "", el("div", "pair", ...targets, expert)));
    parts.push(el("p", "cmd", "In the tables: ", el("code", "", "mindgap show " + data.file + " " + data.cascades[problem.c] + " --row " + problem.id)));
    detail.replaceChildren(...parts);
  };
  const select = (problem, open) => {
    const moved = problem !== selected;
    selected = problem;
    show(problem);
    if (moved) $("detail").scrollTop = 0;
    for (const row of $("rows").children) row.setAttribute("aria-selected", "false");
    draw();
    if (open && problem) {
      $("browser").classList.add("open");
      history.replaceState(null, "", "#problem=" + encodeURIComponent(problem.id));
      if (matchMedia("(max-width: 760px)").matches) $("browser").scrollIntoView();
    }
  };
  const reveal = (index) => {
    const list = $("list");
    if (index * ROW < list.scrollTop) list.scrollTop = index * ROW;
    if ((index + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (index + 1) * ROW - list.clientHeight;
  };

  // Events.
  const verdicts = new Set(problems.flatMap((problem) => problem.plain.concat(problem.guided, problem.teacher).map((sample) => sample.v)).filter(Boolean));
  for (const name of verdicts) { const option = el("option", "", (VERDICTS[name] || name).replace(/^\W+ /, "")); option.value = name; $("verdict").append(option); }
  $("search").addEventListener("input", (event) => { state.query = event.target.value.trim().toLowerCase(); refresh(); });
  $("verdict").addEventListener("change", (event) => { state.verdict = event.target.value; refresh(); });
  $("order").addEventListener("change", (event) => { state.order = event.target.value; refresh(); });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("list").addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  $("list").addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
    if (!by || !found.length) return;
    event.preventDefault();
    const index = Math.min(found.length - 1, Math.max(0, found.indexOf(selected) + by));
    select(found[index], false);
    reveal(index);
  });
  for (const seg of document.querySelectorAll(".seg")) seg.addEventListener("click", () => {
    state.source = seg.dataset.source || null;
    state.cascade = data.cascades.length > 1 ? Number(seg.dataset.c) : null;
    refresh();
    $("problems").scrollIntoView();
  });
  const decoded = (text) => { try { return decodeURIComponent(text); } catch { return text; } };
  const byHash = () => {
    const id = decoded((location.hash.match(/^#problem=(.*)/) || [])[1] || "");
    const problem = id && problems.find((candidate) => candidate.id === id);
    if (!problem) return;
    Object.assign(state, { query: "", source: null, verdict: "", cascade: null });
    $("search").value = ""; $("verdict").value = "";
    selected = problem;
    refresh();
    select(problem, true);
    reveal(found.indexOf(problem));
    $("problems").scrollIntoView();
  };
  addEventListener("hashchange", byHash);
  addEventListener("resize", draw);

  // What a token's probability is, by pointer or touch.
  const tip = $("tip");
  const point = (event) => {
    const target = event.target.closest && event.target.closest("[data-tip]");
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = target.dataset.tip;
    tip.style.left = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = (event.clientY > 60 ? event.clientY - 38 : event.clientY + 18) + "px";
  };
  addEventListener("pointermove", point);
  addEventListener("pointerdown", point);

  refresh();
  byHash();
})();
