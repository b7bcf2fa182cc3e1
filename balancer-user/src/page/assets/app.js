// The status page: one stream of events, drawn once a second. Text goes into
// the page as text, never as markup.
"use strict";
(() => {
  const HISTORY = 180;
  const MAX_UNFOLDED = 6;
  /** Milliseconds without news after which the page says so. */
  const SILENCE = 5000;
  const FILTER_DELAY = 250;
  const SVG = "http://www.w3.org/2000/svg";

  const $ = (id) => document.getElementById(id);
  const at = (name, ...classes) => {
    const element = document.createElement(name);
    if (classes.length) element.className = classes.join(" ");
    return element;
  };
  const told = (name, text, ...classes) => {
    const element = at(name, ...classes);
    element.textContent = text;
    return element;
  };
  /** Writes only what differs, so that nothing is read out or drawn anew. */
  const say = (element, text) => {
    if (element.textContent !== text) element.textContent = text;
  };
  const dress = (element, name) => {
    if (element.className !== name) element.className = name;
  };

  // What the viewer asked for; in the address, so that it can be kept.
  const asked = new URLSearchParams(location.search);
  const wanted = {
    filter: asked.get("filter") || "",
    trouble: asked.get("trouble") === "true",
    sort: asked.get("sort") || "attention",
    page: Number(asked.get("page")) || 1,
    unfolded: new Set((asked.get("unfolded") || "").split(",").filter(Boolean)),
  };
  let hasChosen = asked.has("unfolded");

  const query = () => {
    const parameters = new URLSearchParams();
    if (wanted.filter) parameters.set("filter", wanted.filter);
    if (wanted.trouble) parameters.set("trouble", "true");
    if (wanted.sort !== "attention") parameters.set("sort", wanted.sort);
    if (wanted.page > 1) parameters.set("page", String(wanted.page));
    // Also when there are none: then nothing is unfolded by itself.
    if (hasChosen) parameters.set("unfolded", [...wanted.unfolded].join(","));
    return parameters.toString();
  };

  // Figures.
  const figure = (value) => {
    for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
      if (value >= size) return (value / size).toPrecision(3) + " " + unit;
    }
    return value >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1);
  };
  /** A figure whose unit takes its prefix: `1.48` and `Mbit/s`. */
  const drawRate = (element, value, unit) => {
    const [digits, prefix] = figure(value).split(" ");
    const small = told("small", " " + (prefix || "") + unit);
    element.replaceChildren(digits, small);
  };
  const percent = (share) => (share === null ? "–" : (share * 100).toFixed(1) + " %");
  const micros = (value) => {
    if (value === null) return "–";
    if (value < 1000) return value + " µs";
    return value < 1e6 ? (value / 1000).toPrecision(3) + " ms" : (value / 1e6).toPrecision(3) + " s";
  };
  const span = (seconds) => {
    const whole = Math.max(0, Math.round(seconds));
    if (whole < 60) return whole + " s";
    if (whole < 3600) return Math.floor(whole / 60) + " min " + (whole % 60) + " s";
    if (whole < 86400) return Math.floor(whole / 3600) + " h " + Math.floor((whole % 3600) / 60) + " min";
    return Math.floor(whole / 86400) + " d " + Math.floor((whole % 86400) / 3600) + " h";
  };
  /** As ISO 8601 has it, in the viewer's time. */
  const clock = (date) => {
    const two = (number) => String(number).padStart(2, "0");
    const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
    return day + " " + [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
  };
  const moment = (unix) => {
    const time = at("time");
    const date = new Date(unix * 1000);
    time.dateTime = date.toISOString();
    time.title = time.textContent = clock(date);
    return time;
  };
  /** A sentence with commands between backquotes. */
  const sentence = (name, text, ...classes) => {
    const element = at(name, ...classes);
    text.split("`").forEach((part, index) => {
      element.append(index % 2 ? told("code", part) : part);
    });
    return element;
  };

  const TONES = {
    up: "good", degraded: "warn", "on-backups": "warn", "fail-open": "bad", down: "bad",
    "slow-start": "warn", standby: "idle", unproven: "warn", held: "bad", draining: "idle",
    disabled: "idle", committed: "good", undone: "bad", interrupted: "bad", pending: "warn",
  };
  const paintState = (element, state) => {
    say(element, state);
    dress(element, "state " + (TONES[state] || "idle"));
  };

  // Time lines.
  const sparkline = (holder, points, label) => {
    let svg = holder.firstElementChild;
    if (!svg) {
      svg = document.createElementNS(SVG, "svg");
      svg.setAttribute("viewBox", `0 0 ${HISTORY} 30`);
      svg.setAttribute("preserveAspectRatio", "none");
      svg.setAttribute("role", "img");
      for (const name of ["area", "stroke"]) {
        const path = document.createElementNS(SVG, "path");
        path.setAttribute("class", name);
        svg.append(path);
      }
      holder.append(svg);
    }
    const most = points.reduce((most, point) => Math.max(most, point || 0), 0);
    const first = HISTORY - points.length;
    let stroke = "";
    let area = "";
    let begin = null;
    const end = (x) => {
      if (begin !== null) area += `L${x} 30L${begin} 30Z`;
      begin = null;
    };
    points.forEach((point, index) => {
      const x = first + index;
      if (point === null) {
        end(x - 1);
        return;
      }
      const y = (29 - (most ? (point / most) * 27 : 0)).toFixed(1);
      const step = (begin === null ? "M" : "L") + x + " " + y;
      if (begin === null) begin = x;
      stroke += step;
      area += step;
    });
    end(HISTORY - 1);
    svg.children[0].setAttribute("d", area);
    svg.children[1].setAttribute("d", stroke);
    svg.setAttribute("aria-label", `${label}, last 3 minutes: now ${figure(points.at(-1) || 0)} a second, at most ${figure(most)}`);
  };

  // Services: a body of the table each, with a second row when unfolded.
  const drawn = new Map();
  let totals = [];

  const newService = (row) => {
    const body = at("tbody");
    const line = at("tr");
    const name = at("th");
    name.scope = "row";
    const fold = told("button", row.name, "fold");
    fold.type = "button";
    fold.addEventListener("click", () => toggle(row.name));
    const endpoint = at("small");
    name.append(fold, endpoint);
    const cell = (...classes) => {
      const made = at("td", ...classes);
      line.append(made);
      return made;
    };
    line.append(name);
    const badge = at("span");
    cell().append(badge);
    const service = {
      body, line, fold, endpoint, badge,
      backends: cell("num"), flows: cell("num"), packets: cell("num"), bits: cell("num"),
      skew: cell("num"), line_of: cell("line"), points: [], full: null,
    };
    body.append(line);
    body.dataset.service = row.name;
    drawn.set(row.name, service);
    return service;
  };

  const drawService = (row) => {
    const service = drawn.get(row.name) || newService(row);
    say(service.endpoint, [row.endpoint, row.forward].filter(Boolean).join(" · "));
    paintState(service.badge, row.state);
    say(service.backends, `${row.backends[1]} / ${row.backends[0]}`);
    say(service.flows, row.measure === "flows" ? figure(row.flows) : "–");
    say(service.packets, figure(row.packets));
    say(service.bits, figure(row.bits));
    say(service.skew, percent(row.skew));
    dress(service.skew, row.incidents && row.skew > 0.1 ? "num off" : "num");
    if (row.history) service.points = row.history;
    else service.points.push(row[row.measure]);
    if (service.points.length > HISTORY) service.points.splice(0, service.points.length - HISTORY);
    const label = row.measure === "flows" ? `new flows of ${row.name}` : `packets of ${row.name}`;
    sparkline(service.line_of, service.points, label);
    const isOpen = wanted.unfolded.has(row.name);
    service.fold.setAttribute("aria-expanded", String(isOpen));
    dress(service.body, isOpen ? "open" : "");
    if (!isOpen && service.full) {
      service.full.line.remove();
      service.full = null;
    }
    return service;
  };

  const HEADS = [
    ["backend"], ["address"], ["weight", "num"], ["state"], ["expected", "num"], ["seen", "num"],
    ["seen, mark: expected"], ["flows/s", "num"], ["packets/s", "num"], ["bit/s", "num"],
    ["handshake", "num"], ["probe", "num"],
  ];

  const newFull = (name) => {
    const line = at("tr");
    const cell = at("td", "full");
    cell.colSpan = 8;
    const table = at("table");
    table.append(told("caption", `Backends of ${name}`, "sr"));
    const head = at("tr");
    for (const [text, ...classes] of HEADS) {
      const column = told("th", text, ...classes);
      column.scope = "col";
      head.append(column);
    }
    const top = at("thead");
    top.append(head);
    const body = at("tbody");
    table.append(top, body);
    const more = at("p", "note");
    cell.append(table, more);
    line.append(cell);
    return { line, body, more, rows: new Map() };
  };

  const newBackend = (backend) => {
    const line = at("tr");
    const name = told("th", backend.name);
    name.scope = "row";
    line.append(name);
    const cell = (...classes) => {
      const made = at("td", ...classes);
      line.append(made);
      return made;
    };
    const made = { line, endpoint: cell(), weight: cell("num") };
    const state = cell();
    made.badge = at("span");
    made.why = at("span", "why");
    state.append(made.badge, made.why);
    made.expected = cell("num");
    made.seen = cell("num");
    made.bar = at("div", "bar");
    made.bar.setAttribute("aria-hidden", "true");
    made.fill = at("div", "seen");
    made.mark = at("div", "mark");
    made.bar.append(made.fill, made.mark);
    cell().append(made.bar);
    for (const key of ["flows", "packets", "bits", "handshake", "probe"]) made[key] = cell("num");
    return made;
  };

  const drawFull = (full, row) => {
    const service = drawn.get(full.name);
    if (!service || !wanted.unfolded.has(full.name)) return;
    if (!service.full) {
      service.full = newFull(full.name);
      service.body.append(service.full.line);
    }
    const { body, more, rows } = service.full;
    const largest = full.backends.reduce((most, it) => Math.max(most, it.expected, it.seen || 0), 0) || 1;
    // The longest bar leaves room for marks beyond it.
    const scale = (share) => ((share / largest) * 85).toFixed(1) + "%";
    const there = new Set();
    const lines = full.backends.map((backend) => {
      there.add(backend.name);
      let made = rows.get(backend.name);
      if (!made) {
        made = newBackend(backend);
        rows.set(backend.name, made);
      }
      say(made.endpoint, backend.endpoint);
      say(made.weight, String(backend.weight));
      paintState(made.badge, backend.state);
      say(made.why, backend.failure || "");
      say(made.expected, percent(backend.expected));
      say(made.seen, percent(backend.seen));
      dress(made.seen, backend.is_off ? "num off" : "num");
      dress(made.bar, backend.is_off ? "bar isoff" : "bar");
      made.fill.style.width = scale(backend.seen || 0);
      made.mark.style.left = scale(backend.expected);
      say(made.flows, row && row.measure === "packets" ? "–" : figure(backend.flows));
      say(made.packets, figure(backend.packets));
      say(made.bits, figure(backend.bits));
      say(made.handshake, micros(backend.handshake_micros));
      say(made.probe, micros(backend.probe_micros));
      return made.line;
    });
    for (const [name, made] of rows) {
      if (there.has(name)) continue;
      made.line.remove();
      rows.delete(name);
    }
    arrange(body, lines);
    more.hidden = full.more === 0;
    say(more, full.more ? `and ${full.more} more: see balancer status --json` : "");
  };

  /** Brings children into an order and moves only those that are elsewhere. */
  const arrange = (parent, children, skip = 0) => {
    const focused = document.activeElement;
    children.forEach((child, index) => {
      const there = parent.children[index + skip];
      if (there !== child) parent.insertBefore(child, there || null);
    });
    if (focused && focused !== document.activeElement && parent.contains(focused)) focused.focus();
  };

  const drawServices = (shown) => {
    const table = $("table");
    const rows = new Map(shown.services.map((row) => [row.name, row]));
    for (const [name, service] of drawn) {
      if (rows.has(name)) continue;
      service.body.remove();
      drawn.delete(name);
    }
    const bodies = shown.services.map((row) => drawService(row).body);
    // The caption and the head come first.
    arrange(table, bodies, 2);
    for (const full of shown.unfolded) drawFull(full, rows.get(full.name));
    const [page, pages] = shown.page;
    wanted.page = page;
    const all = shown.totals.services[0];
    const filtered = wanted.filter || wanted.trouble;
    say($("count"), filtered ? `${shown.found} of ${all} services` : `${all} services`);
    $("pages").hidden = pages < 2;
    say($("page"), `page ${page} of ${pages}`);
    $("previous").disabled = page <= 1;
    $("next").disabled = page >= pages;
  };

  // Incidents.
  const cards = new Map();
  let hasIncidents = false;

  const whose = (incident) =>
    !incident.service ? "node" : incident.backend
      ? `service ${incident.service}, backend ${incident.backend}` : `service ${incident.service}`;

  const newCard = (incident) => {
    const card = at("article", "incident");
    const head = at("header");
    head.append(told("span", incident.kind, "kind"), told("h3", whose(incident)));
    const when = at("span", "when");
    head.append(when);
    const what = at("p", "what");
    const cause = sentence("p", "Likely: " + incident.cause, "cause");
    card.append(head, what, cause);
    if (incident.since) {
      const { revision, author, summary, seconds_before: before } = incident.since;
      card.append(told("p", `Revision ${revision} by ${author} (${summary}) came into force ${span(before)} before.`, "since"));
    }
    const help = at("p", "do");
    help.append(told("span", "What helps:"), told("code", incident.command));
    if (incident.service) {
      const look = told("button", "look at " + incident.service);
      look.type = "button";
      look.addEventListener("click", () => {
        wanted.filter = $("filter").value = incident.service;
        wanted.trouble = $("trouble").checked = false;
        wanted.unfolded = new Set([incident.service]);
        wanted.page = 1;
        hasChosen = true;
        connect();
        $("services").focus();
      });
      help.append(look);
    }
    card.append(help);
    card.dataset.incident = String(incident.number);
    return { card, what, when };
  };

  const announce = (text) => {
    const line = told("p", text);
    $("announce").append(line);
    if ($("announce").children.length > 20) $("announce").firstElementChild.remove();
  };

  const drawIncidents = (shown) => {
    const there = new Set();
    const list = shown.incidents.map((incident) => {
      there.add(incident.number);
      let made = cards.get(incident.number);
      if (!made) {
        made = newCard(incident);
        cards.set(incident.number, made);
        if (hasIncidents) announce(`Incident: ${incident.kind}, ${whose(incident)}: ${incident.what}`);
      }
      say(made.what, incident.what);
      say(made.when, "open for " + span(shown.at - incident.opened_at));
      return made.card;
    });
    for (const [number, made] of cards) {
      if (there.has(number)) continue;
      made.card.remove();
      cards.delete(number);
      announce(`Incident ${number} is over`);
    }
    hasIncidents = true;
    arrange($("incidents"), list);
    $("incidents-part").hidden = list.length === 0;
    const more = shown.open_incidents - list.length;
    $("incidents-more").hidden = more <= 0;
    if (more > 0) say($("incidents-more"), `and ${more} more: see balancer events`);
  };

  const drawClosed = (closed, now) => {
    $("closed-part").hidden = closed.length === 0;
    $("closed").replaceChildren(...closed.map((incident) => {
      const item = at("li");
      item.append(told("strong", incident.kind), ` ${whose(incident)}: ${incident.what}`);
      const when = at("small");
      const time = moment(incident.closed_at);
      time.textContent = span(now - incident.closed_at) + " ago";
      when.append("lasted " + span(incident.closed_at - incident.opened_at) + ", ended ", time);
      item.append(when);
      return item;
    }));
  };

  const drawRevisions = (revisions, inForce) => {
    $("revisions").replaceChildren(...revisions.map((revision) => {
      const line = at("tr");
      const number = told("th", String(revision.number), "num");
      number.scope = "row";
      const outcome = at("td");
      const badge = at("span");
      paintState(badge, revision.outcome);
      if (revision.number === inForce) badge.textContent += ", in force";
      outcome.append(badge);
      const when = at("td");
      when.append(moment(revision.at));
      const what = told("td", revision.summary, "what");
      if (revision.why) what.append(told("span", revision.why, "why"));
      line.append(number, outcome, when, told("td", revision.author), told("td", revision.cause), what);
      return line;
    }));
  };

  let closed = [];
  let revisions = [];

  const draw = (shown) => {
    say($("headline"), shown.headline.text);
    dress($("headline"), "headline " + shown.headline.tone);
    const mark = { good: "✓", warn: "!", bad: "✕" }[shown.headline.tone] || "";
    document.title = `${mark} balancer ${location.host}`;
    say($("revision"), shown.revision === null ? "–" : String(shown.revision));
    say($("uptime"), span(shown.at - shown.started_at));
    say($("interfaces"), shown.interfaces.map(([name, mode]) => `${name} (${mode})`).join(", ") || "–");
    $("problems").hidden = shown.problems.length === 0;
    $("problems").replaceChildren(...shown.problems.map((text) => told("li", text)));
    $("change").hidden = !shown.change;
    say($("change"), shown.change ? "Change under way: " + shown.change : "");

    const { services, backends, flows, packets, bits, history } = shown.totals;
    const share = (id, [all, up]) => {
      const unit = told("small", ` of ${all}`);
      $(id).replaceChildren(String(up), unit);
      dress($(id), up < all ? "figure bad" : "figure");
    };
    share("services-up", services);
    share("backends-up", backends);
    drawRate($("total-flows"), flows, "/s");
    drawRate($("total-packets"), packets, "/s");
    drawRate($("total-bits"), bits, "bit/s");
    if (history) totals = history;
    else totals.push(packets);
    if (totals.length > HISTORY) totals.splice(0, totals.length - HISTORY);
    sparkline($("total-line"), totals, "packets of all services");

    drawIncidents(shown);
    drawServices(shown);
    if (shown.closed) closed = shown.closed;
    drawClosed(closed, shown.at);
    if (shown.revisions) revisions = shown.revisions;
    drawRevisions(revisions, shown.revision);
    document.body.dataset.updates = String(Number(document.body.dataset.updates || 0) + 1);
  };

  // The stream.
  let source = null;
  let last = 0;
  let retry = 0;
  let pause = 1000;

  const link = (state, text) => {
    say($("link"), text);
    dress($("link"), "link " + state);
  };

  const connect = () => {
    if (source) source.close();
    clearTimeout(retry);
    const parameters = query();
    if (parameters) history.replaceState(null, "", "?" + parameters);
    source = new EventSource("live" + (parameters ? "?" + parameters : ""));
    source.addEventListener("second", (event) => {
      const shown = JSON.parse(event.data);
      last = Date.now();
      pause = 1000;
      link("live", "live");
      if (!hasChosen) {
        hasChosen = true;
        // Few services are shown in full unless the viewer folds them.
        if (shown.totals.services[0] <= 3 && shown.services.length) {
          for (const row of shown.services) wanted.unfolded.add(row.name);
          draw(shown);
          connect();
          return;
        }
      }
      draw(shown);
    });
    source.addEventListener("error", () => {
      if (source.readyState !== EventSource.CLOSED) {
        link("lost", "no connection, trying again");
        return;
      }
      // It was refused: too many look, or the daemon is another one.
      link("lost", `refused, trying again in ${Math.round(pause / 1000)} s`);
      retry = setTimeout(connect, pause);
      pause = Math.min(pause * 2, 30000);
    });
  };

  const toggle = (name) => {
    hasChosen = true;
    if (!wanted.unfolded.delete(name)) {
      wanted.unfolded.add(name);
      // The one that was unfolded first makes room.
      if (wanted.unfolded.size > MAX_UNFOLDED) wanted.unfolded.delete([...wanted.unfolded][0]);
    }
    connect();
  };

  say($("node"), location.host);
  $("filter").value = wanted.filter;
  $("trouble").checked = wanted.trouble;
  $("sort").value = wanted.sort;
  let typing = 0;
  $("filter").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      wanted.filter = $("filter").value.trim();
      wanted.page = 1;
      connect();
    }, FILTER_DELAY);
  });
  $("trouble").addEventListener("change", () => {
    wanted.trouble = $("trouble").checked;
    wanted.page = 1;
    connect();
  });
  $("sort").addEventListener("change", () => {
    wanted.sort = $("sort").value;
    wanted.page = 1;
    connect();
  });
  $("search").addEventListener("submit", (event) => event.preventDefault());
  for (const [id, step] of [["previous", -1], ["next", 1]]) {
    $(id).addEventListener("click", () => {
      wanted.page += step;
      connect();
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
      event.preventDefault();
      $("filter").focus();
    }
  });
  // Nobody looks at a page in the background.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) connect();
    else if (source) source.close();
  });
  setInterval(() => {
    if (!document.hidden && last && Date.now() - last > SILENCE) {
      link("lost", `no news for ${span((Date.now() - last) / 1000)}`);
    }
  }, 1000);
  connect();
})();
