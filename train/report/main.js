const run = JSON.parse(document.getElementById('data').textContent);
const picture = location.search === '?picture';
if (picture) document.body.classList.add('picture');

showSummary(run);
showCurves(run, picture);
showTraces(run);
document.getElementById('config-body').append(run.config
  ? element('pre', {}, run.config) : element('p', { className: 'card empty' }, 'This run folder has no config.yaml.'));

// The height of the picture of a run is read from here.
document.body.dataset.height = Math.ceil(document.documentElement.getBoundingClientRect().height);
