// Which metrics make which chart. A chart none of whose metrics was measured is named below the others.

const share = { format: (v) => percent(v), tick: (v) => `${parseFloat((100 * v).toPrecision(3))}%`, floor: 0, ceiling: 1 };
const plain = { format: number, tick: number };
const exactly = (v) => missing(v) ? DASH : String(parseFloat(v.toPrecision(4)));
const precise = { format: exactly, tick: exactly };
const fromZero = { ...plain, floor: 0 };
const band = { 'eval/pass@1': ['eval/pass@1_low', 'eval/pass@1_high'] };

const CURVES = [
  { title: 'Held-out pass@1, 95 % interval', ...share, lines: [['pass@1', 'eval/pass@1']], families: true },
  { title: 'Reward and correctness', ...plain, lines: [['reward', 'reward/mean'], ['correct', 'reward/correct']] },
  { title: 'Response length, tokens', ...fromZero,
    lines: [['mean', 'response/tokens_mean'], ['p50', 'response/tokens_p50'], ['p99', 'response/tokens_p99']] },
  { title: 'Responses that think', ...share,
    lines: [['training', 'response/thinking'], ['held-out', 'eval/thinking'], ['truncated', 'response/truncated']] },
  { title: 'Entropy, nats', ...fromZero, lines: [['entropy', 'policy/entropy']] },
  { title: 'Importance weights', ...precise,
    lines: [['mean', 'policy/weight_mean'], ['ratio max', 'policy/ratio_max'], ['ratio min', 'policy/ratio_min']] },
  { title: 'Clip fraction', ...share, lines: [['clipped', 'policy/clip_fraction']] },
  { title: 'Gradient norm', ...plain, lines: [['norm', 'policy/grad_norm']] },
  { title: 'Time of a step by phase, s', ...fromZero, stacked: true, lines: [['generate', 'time/generate_s'],
    ['update', 'time/update_s'], ['publish', 'time/publish_s'], ['other', 'time/other_s']] },
  { title: 'Effective sample size', ...share, lines: [['ESS', 'policy/ess']] },
  { title: 'k3 KL, learner to sampler', ...plain, lines: [['k3', 'policy/k3_kl']] },
  { title: 'Pearson, learner to sampler', ...precise, lines: [['correlation', 'policy/pearson']] },
  { title: 'Throughput, tokens/s', ...fromZero, lines: [['end to end', 'throughput/tokens_per_s'],
    ['generation', 'throughput/generate_tokens_per_s'], ['update', 'throughput/update_tokens_per_s']] },
  { title: 'Policy loss', ...plain, lines: [['loss', 'policy/loss'], ['auxiliary', 'policy/aux_loss']] },
  { title: 'Loss mass by advantage sign', ...fromZero,
    lines: [['positive', 'policy/loss_mass_positive'], ['negative', 'policy/loss_mass_negative']] },
  { title: 'Groups of a step', ...fromZero, stacked: true, lines: [['kept', 'groups/kept'], ['dropped', 'groups/dropped']] },
  { title: 'Decoding slots in use', ...share, lines: [['occupancy', 'rollout/occupancy']] },
  { title: 'Memory of all processes, MiB', ...fromZero, lines: [['total', 'memory/total_mb']] },
];
const WARM_START = [
  { title: 'Warm start: loss, nats per token', ...fromZero, lines: [['loss', 'warm_start/loss']] },
  { title: 'Warm start: learning rate', ...fromZero, lines: [['rate', 'warm_start/lr']] },
];
// A phase of the run has one colour wherever it is shown.
const COLORS = { 'warm start': 'c6', generate: 'c1', update: 'c2', publish: 'c3', evaluate: 'c4', checkpoint: 'c5', other: 'c7' };
const MANY_POINTS = 150; // from here on curves are smoothed until the reader says otherwise
const PICTURED = 9; // charts in the picture of a run

function showCurves(run, picture) {
  const columns = { ...run.curves, 'time/other_s': otherTime(run.curves) };
  const unmeasured = [], place = document.getElementById('charts');
  const add = (curve, source, x, xs) => {
    const spec = chartSpec(curve, source, x, xs);
    if (!spec) return void unmeasured.push(curve.title);
    const chart = new Chart(spec);
    place.append(chart.node);
    chart.draw();
  };
  const shown = picture ? CURVES.slice(0, PICTURED) : CURVES;
  shown.forEach((curve) => add(curve, columns, 'step', run.curves.step || []));
  if (!picture) WARM_START.forEach((curve) =>
    add(curve, run.warm_start, 'warm step', run.warm_start['warm_start/step'] || []));
  if (!place.children.length) place.replaceWith(element('p', { className: 'card empty' }, 'No metrics were written yet.'));
  else if (unmeasured.length) document.getElementById('unmeasured').textContent = `Not measured in this run: ${unmeasured.join('; ')}.`;
  const slider = document.getElementById('smoothing');
  const smooth = () => charts.forEach((chart) => {
    chart.smoothing = Number(slider.value);
    chart.draw();
  });
  slider.addEventListener('input', smooth);
  if ((run.curves.step || []).length > MANY_POINTS) {
    slider.value = 0.9;
    smooth();
  }
}

// Only the stretch of x where something was measured; null when nothing was.
function chartSpec(curve, columns, x, xs) {
  const named = curve.families ? [...curve.lines, ...families(columns)] : curve.lines;
  const lines = named.filter(([, key]) => (columns[key] || []).some((y) => !missing(y)));
  if (!lines.length || curve.stacked && lines.every(([, key]) => key === 'time/other_s')) return null;
  const measured = xs.map((_, i) => i).filter((i) => lines.some(([, key]) => !missing(columns[key][i])));
  const pick = (key) => columns[key] && measured.map((i) => columns[key][i]);
  const series = lines.map(([label, key], n) => {
    const [low, high] = (band[key] || []).map(pick);
    return { label, color: curve.stacked && COLORS[label] || `c${n % 7 + 1}`, ys: pick(key), ...(low && high ? { low, high } : {}) };
  });
  return { ...curve, x, xs: measured.map((i) => xs[i]), series };
}

function families(columns) {
  const found = Object.keys(columns).map((key) => /^eval\/task\/(.+)\/pass@1$/.exec(key)).filter(Boolean);
  return found.length > 1 ? found.slice(0, 6).map((match) => [match[1], match[0]]) : [];
}

function otherTime(columns) {
  const parts = ['time/generate_s', 'time/update_s', 'time/publish_s'];
  return (columns['time/step_s'] || []).map((total, i) => missing(total) ? null
    : Math.max(0, parts.reduce((left, key) => left - (columns[key]?.[i] ?? 0), total)));
}
