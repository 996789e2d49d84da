// The head of the page: what the run is, what it changed, where its time went.

function showSummary(run) {
  if (run.evaluation_only) showEvaluation(run, run.evaluations[run.evaluations.length - 1]);
  else showTraining(run);
  showTime(run);
}

function showHead(run, badge, kind, facts) {
  document.title = `${run.name} · run report`;
  document.getElementById('name').append(`${run.name} `, element('span', { className: `badge ${kind}` }, badge));
  document.getElementById('facts').textContent = [...facts, duration(run.wall_s), run.tasks.join(', ')].filter(Boolean).join(' · ');
}

function showTraining(run) {
  const before = run.evaluations.filter((line) => line.step === 0).pop();
  const after = run.evaluations.filter((line) => line.step > 0).pop();
  const finished = run.steps_planned !== null && run.steps_done >= run.steps_planned;
  const steps = missing(run.steps_planned) ? plural(run.steps_done, 'step') : `${run.steps_done.toLocaleString('en-US')} of ${plural(run.steps_planned, 'step')}`;
  const badge = finished ? 'finished' : run.warm_start_only ? 'warm start' : 'unfinished';
  showHead(run, badge, badge === 'unfinished' ? 'open' : 'done', [steps]);
  document.getElementById('summary').append(
    passTile(before, after),
    changeTile('Held-out responses thinking', before, after, 'eval/thinking', (v) => percent(v), (v) => `${signed(100 * v)} points`),
    changeTile('Held-out response tokens', before, after, 'eval/tokens_mean', number, (v) => `${signed(v)} tokens`),
    speedTile(run));
}

// Of weights that were not trained here: nothing is before or after.
function showEvaluation(run, line) {
  const key = 'eval/pass@1', big = (text) => element('span', { className: 'big' }, text);
  const others = Object.keys(line).filter((name) => /^eval\/.*@/.test(name) && name !== key && !/_(low|high)$/.test(name));
  const unjudged = line['eval/masked'], left = line['eval/left_out'];
  showHead(run, 'evaluation', 'done', [
    missing(line['eval/problems']) ? null : plural(line['eval/problems'], 'problem'),
    left ? `${number(left)} left out` : null,
    unjudged ? `${plural(unjudged, 'response')} without a verdict` : null]);
  const tiles = [tile('Held-out pass@1', big(percent(line[key])), missing(line[`${key}_low`]) ? null : whiskers([line], key, 'pass@1'))];
  if (others.length) tiles.push(tile('Other held-out accuracies', ...others.map((name) =>
    element('div', {}, `${name.replace(/^eval\/(task\/)?/, '')} `, element('b', {}, percent(line[name]))))));
  tiles.push(tile('Held-out responses thinking', big(percent(line['eval/thinking']))),
    tile('Held-out response tokens', big(number(line['eval/tokens_mean']))));
  document.getElementById('summary').append(...tiles);
}

function tile(title, ...content) {
  return element('article', { className: 'card tile' }, element('h3', {}, title), ...content);
}

function arrow(from, to) {
  return element('span', { className: 'big' }, element('span', { className: 'from' }, `${from} → `), to);
}

function passTile(before, after) {
  const key = 'eval/pass@1', found = [before, after].filter(Boolean);
  const node = tile('Held-out pass@1, before and after RL', arrow(percent(before?.[key]), percent(after?.[key])));
  if (before && after) node.append(gain(before, after, key));
  else node.append(element('span', { className: 'detail' }, found.length ? 'one of the two evaluations is not there yet' : 'not evaluated yet'));
  const known = found.filter((line) => !missing(line[`${key}_low`]));
  if (known.length) node.append(whiskers(known, key));
  return node;
}

// Newcombe's interval of a difference of two independent proportions, from the intervals of each (1998, method 10).
function gain(before, after, key) {
  const [p, q] = [before[key], after[key]], points = (v) => signed(100 * v);
  const text = element('span', { className: 'detail' },
    element('span', { className: q >= p ? 'up' : 'down' }, `${points(q - p)} points`));
  const [pl, ph, ql, qh] = [before, after].flatMap((line) => [line[`${key}_low`], line[`${key}_high`]]);
  if (![pl, ph, ql, qh].some(missing)) {
    const low = q - p - Math.hypot(q - ql, ph - p), high = q - p + Math.hypot(qh - q, p - pl);
    text.append(' · 95 % interval of the gain ', element('span', { className: 'whole' }, `[${points(low)}, ${points(high)}]`));
  }
  return text;
}

function whiskers(lines, key, first = 'before') {
  const svg = vector('svg', { height: 26 * lines.length + 16, role: 'img', 'aria-label': 'pass@1 with 95 % intervals' });
  new ResizeObserver(() => {
    const width = svg.clientWidth, left = 72, right = 124, at = (share) => left + share * (width - left - right);
    svg.replaceChildren();
    [0, 0.25, 0.5, 0.75, 1].forEach((share) => svg.append(
      vector('line', { x1: at(share), x2: at(share), y1: 0, y2: 26 * lines.length, stroke: 'var(--grid)' }),
      vector('text', { x: at(share), y: 26 * lines.length + 13, 'text-anchor': 'middle', fill: 'var(--muted)', 'font-size': 11 }, percent(share, 0))));
    lines.forEach((line, row) => {
      const [low, value, high] = [line[`${key}_low`], line[key], line[`${key}_high`]], y = 26 * row + 13;
      const color = line.step ? 'var(--c1)' : 'var(--c7)', label = line.step ? `step ${line.step}` : first;
      svg.append(
        vector('text', { x: 0, y: y + 4, fill: 'var(--muted)', 'font-size': 12 }, label),
        vector('line', { x1: at(low), x2: at(high), y1: y, y2: y, stroke: color, 'stroke-width': 4, 'stroke-linecap': 'round', opacity: 0.45 }),
        vector('circle', { cx: at(value), cy: y, r: 5, fill: color }),
        vector('text', { x: width, y: y + 4, 'text-anchor': 'end', fill: 'var(--muted)', 'font-size': 12 }, `[${percent(low)}, ${percent(high)}]`));
    });
  }).observe(svg);
  return svg;
}

function changeTile(title, before, after, key, format, difference) {
  const [from, to] = [before?.[key], after?.[key]];
  const change = missing(from) || missing(to) ? 'before and after RL were not both measured' : `${difference(to - from)} by RL`;
  return tile(title, arrow(format(from), format(to)), element('span', { className: 'detail' }, change));
}

function speedTile(run) {
  const known = (run.curves['throughput/tokens_per_s'] || []).filter((v) => !missing(v)).sort((a, b) => a - b);
  const memory = (run.curves['memory/total_mb'] || []).filter((v) => !missing(v));
  const detail = ['tokens/s, median step', memory.length ? `peak ${number(Math.max(...memory))} MiB` : ''].filter(Boolean).join(' · ');
  return tile('Throughput, end to end', element('span', { className: 'big' }, number(known[Math.floor(known.length / 2)])),
    element('span', { className: 'detail' }, detail));
}

function showTime(run) {
  const place = document.getElementById('time'), parts = timeParts(run), total = parts.reduce((sum, part) => sum + part[1], 0);
  if (!total) return place.remove();
  place.append(element('h3', {}, 'Where the time went'),
    element('div', { className: 'split' }, ...parts.map(([label, seconds]) =>
      element('div', { title: label, style: `flex: ${seconds} 0 0; background: var(--${COLORS[label]})` }))),
    element('div', { className: 'legend' }, ...parts.map(([label, seconds]) =>
      element('span', {}, swatch(COLORS[label]), `${label} `, element('b', {}, duration(seconds)), ` ${percent(seconds / total, 0)}`))));
}

// Whole seconds of the run; the rest of the wall time (start-up among it) is "other".
function timeParts(run) {
  const phases = run.phases.filter(([, seconds]) => seconds > 0);
  const other = run.wall_s - phases.reduce((sum, phase) => sum + phase[1], 0);
  return other > 0 && phases.length ? [...phases, ['other', other]] : phases;
}
