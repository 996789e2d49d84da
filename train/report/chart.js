// One chart: lines with interval bands, or stacked areas. The legend is the read-out: it shows the last values, and
// those under the pointer while it is over any chart with the same x axis.

const HEIGHT = 190, MARGIN = { right: 10, top: 8, bottom: 22 };
const charts = [];

class Chart {
  // spec: {title, x: name, xs, series: [{label, color, ys, low?, high?}], format, stacked?, floor?, ceiling?}
  constructor(spec) {
    this.spec = spec;
    this.smoothing = 0;
    this.at = element('span', { className: 'at' });
    this.legend = element('div', { className: 'legend' });
    this.svg = vector('svg', { height: HEIGHT, role: 'img', 'aria-label': spec.title });
    const enlarge = element('button', { className: 'enlarge', title: 'Enlarge', 'aria-label': 'Enlarge', onclick: () => {
      this.node.classList.toggle('wide');
      this.draw();
    } }, '⤢');
    this.node = element('article', { className: 'card chart' },
      element('h3', {}, spec.title), this.at, enlarge, this.legend, this.svg);
    this.values = spec.series.map(() => null);
    spec.series.forEach((series, i) => {
      this.values[i] = element('b');
      this.legend.append(element('span', {}, swatch(series.color), `${series.label} `, this.values[i]));
    });
    this.svg.addEventListener('pointermove', (event) => this.hover(event));
    this.svg.addEventListener('pointerleave', () => charts.forEach((chart) => chart.point(null)));
    new ResizeObserver(() => this.draw()).observe(this.svg);
    charts.push(this);
  }

  shape() {
    const { xs, series, stacked, floor, ceiling } = this.spec;
    const drawn = stacked ? stack(series) : series;
    const ends = drawn.flatMap((one) => [...one.ys, ...(one.low || []), ...(one.high || [])]).filter((y) => !missing(y));
    let low = Math.min(...ends), high = Math.max(...ends);
    const log = !stacked && low > 0 && high / low > 50 && floor === undefined;
    if (!log) {
      const slack = (high - low || Math.abs(high) || 1) * 0.06;
      low = Math.max(low - slack, floor ?? -Infinity);
      high = Math.min(high + slack, ceiling ?? Infinity);
      if (stacked || floor === 0 && low < 0.4 * high) low = 0;
    }
    return { xs, drawn, low, high, log };
  }

  draw() {
    const width = this.svg.clientWidth;
    if (!width) return;
    const height = this.node.classList.contains('wide') ? 2 * HEIGHT : HEIGHT;
    this.svg.setAttribute('height', height);
    this.svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    const { xs, drawn, low, high, log } = this.shape();
    const levels = log ? decades(low, high) : ticks(low, high, 5);
    this.left = Math.max(46, ...levels.map((y) => 12 + 6.8 * this.spec.tick(y).length));
    const first = xs[0], span = xs[xs.length - 1] - first || 1, scale = log ? Math.log : (y) => y;
    this.toX = (x) => this.left + (x - first) / span * (width - this.left - MARGIN.right);
    this.toY = (y) => {
      const share = (scale(y) - scale(low)) / (scale(high) - scale(low) || 1);
      return height - MARGIN.bottom - share * (height - MARGIN.top - MARGIN.bottom);
    };
    this.svg.replaceChildren();
    this.axes(width, height, first, first + span, levels);
    drawn.forEach((series) => this.spec.stacked ? this.area(series) : this.line(series));
    this.cursor = vector('g');
    this.svg.append(this.cursor);
    this.drawn = drawn;
    this.point(null);
  }

  axes(width, height, first, last, levels) {
    for (const y of levels) {
      const at = this.toY(y);
      this.svg.append(vector('line', { x1: this.left, x2: width - MARGIN.right, y1: at, y2: at, stroke: 'var(--grid)' }),
        vector('text', { x: this.left - 8, y: at + 4, 'text-anchor': 'end' }, this.spec.tick(y)));
    }
    for (const x of ticks(first, last, Math.max(2, Math.floor(width / 90)))) {
      if (!Number.isInteger(x)) continue;
      const label = x.toLocaleString('en-US'), at = Math.min(this.toX(x), width - 3.5 * label.length);
      this.svg.append(vector('text', { x: at, y: height - 5, 'text-anchor': 'middle' }, label));
    }
  }

  line(series) {
    const { xs } = this.spec, color = `var(--${series.color})`;
    const known = xs.map((x, i) => i).filter((i) => !missing(series.ys[i]));
    if (series.low) {
      const both = known.filter((i) => !missing(series.low[i]) && !missing(series.high[i]));
      this.svg.append(vector('path', { d: this.ribbon(both, series.low, series.high), fill: color, opacity: 0.16 }));
    }
    const sparse = known.length <= 25;
    const smooth = sparse ? series.ys : average(series.ys, this.smoothing);
    if (smooth !== series.ys) this.svg.append(this.stroke(known, series.ys, color, 0.25));
    this.svg.append(this.stroke(known, smooth, color, 1));
    if (sparse) known.forEach((i) => this.svg.append(
      vector('circle', { cx: this.toX(xs[i]), cy: this.toY(series.ys[i]), r: 3, fill: color })));
  }

  stroke(known, ys, color, opacity) {
    const d = known.map((i, n) => `${n ? 'L' : 'M'}${this.toX(this.spec.xs[i]).toFixed(1)} ${this.toY(ys[i]).toFixed(1)}`);
    return vector('path', { d: d.join(''), fill: 'none', stroke: color, 'stroke-width': 1.8, 'stroke-linejoin': 'round', opacity });
  }

  area(series) {
    const known = this.spec.xs.map((x, i) => i).filter((i) => !missing(series.ys[i]));
    this.svg.append(vector('path', {
      d: this.ribbon(known, series.base, series.ys), fill: `var(--${series.color})`, opacity: 0.85 }));
  }

  ribbon(known, low, high) {
    const at = (i, ys) => `${this.toX(this.spec.xs[i]).toFixed(1)} ${this.toY(ys[i]).toFixed(1)}`;
    if (!known.length) return '';
    return `M${known.map((i) => at(i, high)).join('L')}L${known.reverse().map((i) => at(i, low)).join('L')}Z`;
  }

  hover(event) {
    const { xs, x } = this.spec, left = this.svg.getBoundingClientRect().left;
    const nearest = xs.reduce((best, at) =>
      Math.abs(this.toX(at) - event.clientX + left) < Math.abs(this.toX(best) - event.clientX + left) ? at : best, xs[0]);
    charts.filter((chart) => chart.spec.x === x).forEach((chart) => chart.point(nearest));
  }

  // The values at x, or where a curve was not measured there, at the step nearest to it; x null: the last ones.
  point(x) {
    if (!this.drawn) return;
    const { xs, series, format } = this.spec;
    this.cursor.replaceChildren();
    this.at.textContent = x === null ? '' : `${this.spec.x} ${x.toLocaleString('en-US')}`;
    if (x !== null && x >= xs[0] && x <= xs[xs.length - 1]) this.cursor.append(vector('line', {
      x1: this.toX(x), x2: this.toX(x), y1: MARGIN.top, y2: this.svg.viewBox.baseVal.height - MARGIN.bottom,
      stroke: 'var(--muted)', 'stroke-dasharray': '3 3' }));
    series.forEach((one, n) => {
      const i = nearestKnown(xs, one.ys, x ?? Infinity);
      const range = one.low && i >= 0 && !missing(one.low[i]) ? ` [${format(one.low[i])}, ${format(one.high[i])}]` : '';
      this.values[n].textContent = i < 0 ? DASH : format(one.ys[i]) + range;
      if (x !== null && i >= 0 && !this.spec.stacked) this.cursor.append(vector('circle', {
        cx: this.toX(xs[i]), cy: this.toY(one.ys[i]), r: 4, fill: `var(--${one.color})`, stroke: 'var(--card)', 'stroke-width': 1.5 }));
    });
  }
}

function swatch(color) {
  return element('i', { style: `background: var(--${color})` });
}

function stack(series) {
  let base = series[0].ys.map(() => 0);
  return series.map((one) => {
    const measured = series[0].ys.map((_, i) => series.some((any) => !missing(any.ys[i])));
    const top = base.map((y, i) => y + (one.ys[i] ?? 0));
    const layer = { ...one, base, ys: top.map((y, i) => measured[i] ? y : null) };
    base = top;
    return layer;
  });
}

function nearestKnown(xs, ys, x) {
  let best = -1;
  for (let i = 0; i < xs.length; i++) {
    if (!missing(ys[i]) && (best < 0 || Math.abs(xs[i] - x) < Math.abs(xs[best] - x) || x === Infinity)) best = i;
  }
  return best;
}

// Exponential moving average, corrected for its start.
function average(ys, weight) {
  if (!weight) return ys;
  let sum = 0, norm = 0;
  return ys.map((y) => {
    if (missing(y)) return y;
    sum = weight * sum + (1 - weight) * y;
    norm = weight * norm + (1 - weight);
    return sum / norm;
  });
}

function ticks(low, high, count) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(parseFloat((i * step).toPrecision(12)));
  return found;
}

function decades(low, high) {
  const found = [];
  for (let e = Math.ceil(Math.log10(low)); 10 ** e <= high; e++) found.push(10 ** e);
  return found.length > 1 ? found : [low, high];
}
