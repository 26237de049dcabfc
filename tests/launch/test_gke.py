"""The JobSets, against the schema of JobSet and the statuses of the program."""

import json
import re
import textwrap
import tomllib

import jsonschema
import pytest
import toy
import yaml

LAUNCH = toy.ROOT / 'launch'
SCHEMA = toy.ROOT / 'tests' / 'launch' / 'jobset_schema.json'
CHECK = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
FILES = ['gke.yaml', 'gke_gpu.yaml']


def jobset(name, change=lambda text: text):
  """The JobSet of a file whose text is changed first."""
  (found,) = [part for part in yaml.safe_load_all(
      change((LAUNCH / name).read_text())) if part['kind'] == 'JobSet']
  return found


def errors(document):
  return [error.message for error in CHECK.iter_errors(document)]


def job_of(document):
  (replicated,) = document['spec']['replicatedJobs']
  return replicated['template']['spec']


def test_the_schema_is_one():
  jsonschema.Draft202012Validator.check_schema(CHECK.schema)
  assert 'Apache License' in CHECK.schema['$comment']


@pytest.mark.parametrize('name', FILES)
def test_it_is_a_jobset(name):
  assert errors(jobset(name)) == []


@pytest.mark.parametrize('change, fits', [
    (lambda text: text, True),
    (lambda text: text.replace('csi:', 'csy:'), False),
    (lambda text: text.replace('mountPath', 'path'), False)])
def test_the_page_says_how_to_mount_a_bucket(change, fits):
  (text,) = re.findall(r'```yaml\n(.*?)```', (LAUNCH / 'gke.md').read_text(),
                       re.DOTALL)
  more = yaml.safe_load(textwrap.dedent(change(text)))['template']
  document = jobset('gke.yaml')
  pod = job_of(document)['template']
  (container,), (added,) = (part['spec']['containers'] for part in (pod, more))
  assert added['name'] == container['name']
  pod['metadata'] = more['metadata']
  pod['spec'] |= {**more['spec'], 'containers': [container | added]}
  assert (errors(document) == []) == fits


@pytest.mark.parametrize('old, new', [
    ('completions: 1', 'completions: four'), ('backoffLimit', 'backofLimit'),
    ('FailJobSet', 'FailJobset'), ('status: "True"', 'status: True'),
    ('google.com/tpu: 4', 'google.com/tpu: [4]'), ('image:', 'images:'),
    ('gke-tpu-topology: 2x2', 'gke-tpu-topology: 2'),
    ('          - action: FailJob\n            on', '          - on')])
def test_mistakes_are_caught(old, new):
  def change(text):
    assert old in text
    return text.replace(old, new)
  assert errors(jobset('gke.yaml', change))


def action(document, status=None, condition=None):
  """What is done when a pod ends so, by the rules of Job and JobSet."""
  reason, message = 'BackoffLimitExceeded', 'has reached the limit'
  for index, rule in enumerate(job_of(document)['podFailurePolicy']['rules']):
    codes = rule.get('onExitCodes', {'values': []})
    types = [c['type'] for c in rule.get('onPodConditions', [])]
    if condition in types or status in codes['values']:
      assert rule['action'] == 'FailJob'
      said = (f'Pod a/b has condition {condition}' if condition in types else
              f'Container main for pod a/b failed with exit code {status}')
      reason = 'PodFailurePolicy'
      message = f'{said} matching FailJob rule at index {index}'
      break
  for rule in document['spec']['failurePolicy']['rules']:
    patterns = rule.get('onJobFailureMessagePatterns', [''])
    if reason in rule['onJobFailureReasons'] and any(
        re.search(pattern, message) for pattern in patterns):
      return rule['action']
  return 'RestartJobSet'


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('end, want', [
    ({'status': 75}, 'RestartJobSetAndIgnoreMaxRestarts'),
    ({'condition': 'DisruptionTarget'}, 'RestartJobSetAndIgnoreMaxRestarts'),
    ({'status': 2}, 'FailJobSet'), ({'status': 130}, 'FailJobSet'),
    ({'status': 1}, 'RestartJobSet'), ({'status': 134}, 'RestartJobSet')])
def test_what_ends_a_pod_decides(name, end, want):
  assert action(jobset(name), **end) == want


@pytest.mark.parametrize('name, platforms', [
    ('gke.yaml', 'tpu,cpu'), ('gke_gpu.yaml', 'cuda,cpu')])
def test_the_pods(name, platforms):
  document = jobset(name)
  job = job_of(document)
  assert job['parallelism'] == job['completions'] and job['backoffLimit'] == 0
  assert job['completionMode'] == 'Indexed'
  pod = job['template']['spec']
  # podFailurePolicy needs it, and the program time to save.
  assert pod['restartPolicy'] == 'Never'
  assert pod['terminationGracePeriodSeconds'] >= 60
  (container,) = pod['containers']
  names = {r['onExitCodes']['containerName'] for r in job['podFailurePolicy'][
      'rules'] if 'onExitCodes' in r}
  assert names == {container['name']}
  assert container['command'][:3] == ['python', '-m', 'dasm_jax.main']
  variables = {v['name']: v['value'] for v in container['env']}
  assert variables['JAX_PLATFORMS'] == platforms
  config = container['command'][3].removeprefix('--config=')
  assert (toy.ROOT / config).exists()


def test_slices_have_node_pools_of_their_own():
  document = jobset('gke.yaml')
  (key,) = document['metadata']['annotations']
  assert key == 'alpha.jobset.sigs.k8s.io/exclusive-topology'
  selected = job_of(document)['template']['spec']['nodeSelector']
  pool = document['metadata']['annotations'][key]
  assert pool == 'cloud.google.com/gke-nodepool' and pool not in selected


@pytest.mark.parametrize('name', FILES)
def test_lost_nodes_do_not_use_up_the_restarts_of_a_week(name):
  assert jobset(name)['spec']['failurePolicy']['maxRestarts'] >= 30


def commands(page, start):
  """The commands of a page that begin so, each in one line."""
  text = (LAUNCH / page).read_text().replace('\\\n', ' ')
  return [' '.join(line.split()) for line in text.splitlines()
          if line.startswith(start)]


@pytest.mark.parametrize('start, parts', [
    ('xpk workload create', ['--restart-on-exit-codes=75', '-tgps=120',
                             '--max-restarts=']),
    ('docker build', ['--platform=linux/amd64']),
    ('gcloud container node-pools create slice', [
        '--tpu-topology=4x4', '--num-nodes=4'])])
def test_commands_have_what_a_first_try_needs(start, parts):
  found = commands('gke.md', start)
  assert found and all(part in line for line in found for part in parts)


def test_the_account_of_gpu_pods_has_its_rights():
  parts = list(yaml.safe_load_all((LAUNCH / 'gke_gpu.yaml').read_text()))
  account, role, binding, document = parts
  name = job_of(document)['template']['spec']['serviceAccountName']
  assert account['metadata']['name'] == name
  assert binding['subjects'] == [{'kind': 'ServiceAccount', 'name': name}]
  assert binding['roleRef']['name'] == role['metadata']['name']
  assert {r for rule in role['rules'] for r in rule['resources']} == {
      'pods', 'services', 'jobs'}


def test_what_is_shipped_is_what_is_tested():
  (image,) = re.findall(r'^ARG PYTHON=(.*)$', (
      LAUNCH / 'Dockerfile').read_text(), re.MULTILINE)
  worker = (LAUNCH / 'tpu_worker.sh').read_text()
  assert {image} == {
      *re.findall(r'uv python \w+ (?:--quiet )?([\d.]+)', worker)}
  major, minor = image.split('.')
  assert f'!= ({major}, {minor})' in worker
  assert 'ARG PYTHON=' in (toy.ROOT / '.ci' / 'run').read_text()
  for page in ('gke.md', 'tpu_vm.md'):
    assert f'Python {image}' in (LAUNCH / page).read_text(), page


def test_every_extra_that_a_launcher_installs_exists():
  extras = tomllib.loads((toy.ROOT / 'pyproject.toml').read_text())[
      'project']['optional-dependencies']
  texts = [p.read_text() for p in LAUNCH.iterdir() if p.suffix != '.md']
  used = {extra for text in texts for group in re.findall(
      r'(?:EXTRAS[:}]?[-=]+|setup )([a-z][\w,]*)', text)
      for extra in group.split(',')}
  assert {'tpu', 'cuda13', 'cuda12', 'gcs', 'k8s', 'dev'} <= used <= set(extras)
