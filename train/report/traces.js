// The table of traces: search, filters, sort, pages, and the full text of one.

const PAGE_ROWS = 25;
const COLUMNS = [
  // [heading, field, class]
  ['step', 'step', 'number'], ['kind', 'kind', 'wide-only'], ['task', 'task', 'wide-only'], ['correct', 'correct', ''],
  ['reward', 'reward', 'number wide-only'], ['tokens', 'tokens', 'number'], ['stop', 'stop', 'wide-only'],
  ['question', 'question', 'excerpt small wide-only'], ['response', 'response', 'excerpt'], ['gold', 'gold', 'wide-only'],
];

class TraceTable {
  constructor(traces, place) {
    this.rows = traces.rows.map((row) => Object.fromEntries(traces.fields.map((field, i) => [field, row[i]])));
    this.rows.forEach((row, i) => {
      row.order = i;
      row.question ??= row.prompt; // runs of before there were both
      row.text = [row.question, row.prompt, row.response, row.gold, row.error].join('\n').toLowerCase();
    });
    this.sort = { field: 'order', sign: 1 };
    this.page = 0;
    this.open = new Set();
    this.search = element('input', { type: 'search', placeholder: 'Search prompts, responses, answers, errors', 'aria-label': 'Search traces',
      oninput: () => this.refresh() });
    this.filters = {
      step: this.filter('step', 'every step', (step) => `step ${step}`),
      kind: this.filter('kind', 'training and held-out', (kind) => kind === 'eval' ? 'held-out' : 'training'),
      task: this.filter('task', 'every task', (task) => task),
      correct: this.filter('correct', 'right and wrong', (correct) => correct ? 'correct' : 'wrong'),
      status: this.filter('status', 'every status', (status) => status),
    };
    this.only = null; // {step, kind, group}: the responses to one prompt
    this.head = element('tr');
    this.body = element('tbody');
    this.pager = element('div', { className: 'pager' });
    place.append(element('div', { className: 'filters' }, this.search, ...Object.values(this.filters)),
      element('div', { className: 'card table' }, element('table', {}, element('thead', {}, this.head), this.body)), this.pager);
    this.refresh();
  }

  filter(field, all, label) {
    const values = [...new Set(this.rows.map((row) => row[field]))].sort((a, b) => typeof a === 'number' ? a - b : String(a) < String(b) ? -1 : 1);
    const select = element('select', { 'aria-label': field, name: field, onchange: () => this.refresh() }, element('option', { value: '' }, all),
      ...values.map((value) => element('option', { value: JSON.stringify(value) }, label(value))));
    select.hidden = values.length < 2;
    return select;
  }

  // Whatever was asked for has changed: choose and order the rows anew.
  refresh() {
    const words = this.search.value.toLowerCase(), { field, sign } = this.sort;
    const wanted = Object.entries(this.filters).filter(([, select]) => select.value).map(([name, select]) => [name, JSON.parse(select.value)]);
    if (this.only) wanted.push(...Object.entries(this.only));
    this.found = this.rows.filter((row) => row.text.includes(words) && wanted.every(([name, value]) => row[name] === value));
    this.found.sort((a, b) => compare(a[field], b[field], sign) || a.order - b.order);
    this.page = 0;
    this.show();
  }

  show() {
    this.head.replaceChildren(...COLUMNS.map(([title, field, kind]) => this.heading(title, field, kind)));
    const from = this.page * PAGE_ROWS, shown = this.found.slice(from, from + PAGE_ROWS);
    this.body.replaceChildren(...shown.flatMap((row) => this.open.has(row) ? [this.row(row), this.full(row)] : [this.row(row)]));
    if (!shown.length) this.body.append(element('tr', {}, element('td', { colSpan: COLUMNS.length, className: 'empty' }, 'No trace matches.')));
    const turn = (by, label, possible) => element('button', { disabled: !possible, onclick: () => { this.page += by; this.show(); } }, label);
    this.pager.replaceChildren(
      turn(-1, '← Previous', from > 0), turn(1, 'Next →', from + PAGE_ROWS < this.found.length),
      element('span', { className: 'muted', id: 'trace-count' }, this.found.length
        ? `${from + 1}–${from + shown.length} of ${this.found.length.toLocaleString('en-US')}` : '0'),
      this.only ? element('button', { className: 'link', onclick: () => { this.only = null; this.refresh(); } }, 'show all prompts again') : '');
  }

  heading(title, field, kind) {
    const cell = element('th', { className: kind.replace(/excerpt( small)?/, ''), scope: 'col' }, element('button', { onclick: () => {
      this.sort = { field, sign: this.sort.field === field ? -this.sort.sign : 1 };
      this.refresh();
    } }, title));
    if (this.sort.field === field) cell.setAttribute('aria-sort', this.sort.sign > 0 ? 'ascending' : 'descending');
    return cell;
  }

  row(row) {
    const toggle = () => { this.open.has(row) ? this.open.delete(row) : this.open.add(row); this.show(); };
    return element('tr', { className: this.open.has(row) ? 'trace open' : 'trace', tabIndex: 0, onclick: toggle,
      onkeydown: (event) => { if (event.key === 'Enter') toggle(); } },
    ...COLUMNS.map(([, field, kind]) => element('td', { className: kind }, cellText(field, row))));
  }

  full(row) {
    const facts = { answer: row.gold, reward: number(row.reward), ...row.parts, status: row.status, error: row.error, stop: row.stop,
      tokens: row.tokens, 'weight versions': (row.versions || []).join(' to '), 'mean logprob': number(row.mean_logprob),
      group: row.group, sample: row.sample };
    const list = Object.entries(facts).filter(([, value]) => !missing(value) && value !== '').map(([name, value]) =>
      element('div', {}, element('dt', {}, name), element('dd', {}, String(typeof value === 'number' ? number(value) : value))));
    const siblings = element('button', { className: 'link', onclick: () => {
      this.only = { step: row.step, kind: row.kind, group: row.group };
      this.refresh();
    } }, 'all responses to this prompt');
    return element('tr', { className: 'full' }, element('td', { colSpan: COLUMNS.length }, element('div', { className: 'full-text' },
      ...(row.prompt.includes(row.question) ? [] :
        [element('h4', {}, 'Question'), element('pre', {}, ...marked(row.question, this.search.value))]),
      element('h4', {}, 'Prompt'), element('pre', {}, ...marked(row.prompt, this.search.value)),
      element('h4', {}, 'Response'), element('pre', { className: 'response' }, ...thought(row.response, this.search.value)),
      element('dl', {}, ...list, siblings))));
  }
}

function cellText(field, row) {
  if (field === 'correct') return row.status === 'infra_error' ? 'masked' : element('span', { className: row.correct ? 'yes' : 'no' }, row.correct ? '✓ yes' : '✗ no');
  if (field === 'reward') return number(row.reward);
  if (field === 'question' || field === 'response') return row[field].slice(0, 400).replace(/\s+/g, ' ');
  return String(row[field] ?? DASH).slice(0, 40);
}

// What is missing comes last, whichever way the rest is ordered.
function compare(a, b, sign) {
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  return a < b ? -sign : a > b ? sign : 0;
}

// Text nodes, with what was searched for in <mark>.
function marked(text, words) {
  if (!words) return [text];
  const nodes = [], lower = text.toLowerCase(), needle = words.toLowerCase();
  let from = 0;
  for (let at = lower.indexOf(needle); at >= 0; at = lower.indexOf(needle, from)) {
    nodes.push(text.slice(from, at), element('mark', {}, text.slice(at, at + needle.length)));
    from = at + needle.length;
  }
  return [...nodes, text.slice(from)];
}

// The think block in its own colour.
function thought(text, words) {
  const end = text.indexOf('</think>');
  if (end < 0) return marked(text, words);
  const cut = end + '</think>'.length;
  return [element('span', { className: 'think' }, ...marked(text.slice(0, cut), words)), ...marked(text.slice(cut), words)];
}

function showTraces(run) {
  const { rows, total, files, files_shown: filesShown } = run.traces, place = document.getElementById('trace-browser');
  const said = document.getElementById('traces-shown');
  if (!rows.length) {
    place.append(element('p', { className: 'card empty' }, total ? 'No trace is small enough to be shown here.' : 'This run has written no traces.'));
    return;
  }
  said.textContent = rows.length === total ? `all ${plural(total, 'trace')} of the run`
    : `${rows.length.toLocaleString('en-US')} of ${plural(total, 'trace')}, from ${filesShown} of ${plural(files, 'step')}: whole groups drawn at random, `
      + 'each step the same number of bytes. All of them are in the run folder’s traces/.';
  new TraceTable(run.traces, place);
}
