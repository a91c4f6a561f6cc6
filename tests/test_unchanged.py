"""For each kind of site: what looks like one and must stay as it is."""

from __future__ import annotations

import textwrap

import pytest

from lazyci.config import read_settings
from lazyci.pipeline import rewrite

OURS = "reg.example/team/app"
PATTERNS = f"images: [{{match: '{OURS}'}}]"

BUILDKITE = {
    "commented out": "steps:\n  - command: make\n  # - command: docker pull {image}\n",
    "comment in shell": "steps:\n  - command: |\n      # docker pull {image}\n      make\n",
    "comment behind a command": "steps:\n  - command: 'make # && docker push {image}'\n",
    "heredoc": "steps:\n  - command: |\n      cat <<EOF\n      docker pull {image}\n      EOF\n",
    "quoted heredoc": "steps:\n  - command: |\n      sh <<'E'\n      docker run {image}\n      E\n",
    "echo": "steps:\n  - command: echo docker pull {image}\n",
    "echo of a string": "steps:\n  - command: 'echo \"docker push {image}\"'\n",
    "string in an argument": "steps:\n  - command: 'ssh host \"docker run {image}\"'\n",
    "another program": "steps:\n  - command: mydocker pull {image}\n",
    "other registry": "steps:\n  - command: docker pull other.example/team/app:1\n",
    "third-party": "steps:\n  - command: docker run alpine:3 true\n",
    "third-party push": "steps:\n  - command: docker push other.example/x:1\n",
    "pinned by digest": "steps:\n  - command: docker pull {repo}@sha256:" + "a" * 64 + "\n",
    "tag and digest": "steps:\n  - command: docker run {image}@sha256:" + "a" * 64 + "\n",
    "never pushed": "steps:\n  - command: docker build -t {image} .\n",
    "loaded, not pushed": "steps:\n  - command: docker buildx build --load -t {image} .\n",
    "built and run": "steps:\n  - command: docker build -t {image} . && docker run {image}\n",
    "tagged and run": "steps:\n  - command: docker tag x {image} && docker run {image}\n",
    "FROM": "steps:\n  - command: |\n      docker build - <<EOF\n      FROM {image}\n      EOF\n",
    "dry run of a manifest": "steps:\n  - command: docker buildx imagetools create --dry-run -t "
    "{image} a\n",
    "pull policy": "steps:\n  - command: docker run --pull always {image}\n",
    "other daemon": "steps:\n  - command: docker --host ssh://x pull {image}\n",
    "background": "steps:\n  - command: docker run {image} & wait\n",
    "exec": "steps:\n  - command: exec docker run {image}\n",
    "all tags": "steps:\n  - command: docker pull --all-tags {repo}\n",
    "unknown at upload": "steps:\n  - command: docker pull {repo}:$$(git describe)\n",
    "set in a loop": "steps:\n  - command: for t in 1 2; do docker pull $$t; done\n",
    "set in a branch": "steps:\n  - command: 'if x; then I={image}; fi; docker pull $$I'\n",
    "inside docker plugin": "steps:\n  - command: docker pull {image}\n    plugins:\n"
    "      - docker#v5: {{image: alpine}}\n",
    "docker plugin, third-party": "steps:\n  - plugins:\n      - docker#v5: {{image: alpine}}\n",
    "docker plugin, digest": "steps:\n  - plugins:\n      - docker#v5:\n          image: {repo}"
    f"@sha256:{'a' * 64}\n",
    "docker plugin, from a file": "steps:\n  - plugins:\n      - docker#v5: {{image: '{image}', "
    "load: x.tar}}\n",
    "docker plugin, commented": "steps:\n  - plugins:\n      # - docker#v5: {{image: '{image}'}}\n"
    "      - ecr#v2: {{}}\n",
    "another plugin": "steps:\n  - plugins:\n      - my-docker#v5: {{image: '{image}'}}\n",
    "local plugin named docker": "steps:\n  - plugins:\n      - ./docker: {{image: '{image}'}}\n",
    "docker plugin outside of steps": "x:\n  plugins:\n    - docker#v5: {{image: '{image}'}}\n"
    "steps: [wait]\n",
    "compose service": "steps:\n  - plugins:\n      - docker-compose#v5: {{run: app}}\n",
    "compose, no reference": "steps:\n  - plugins:\n      - docker-compose#v5: {{push: app}}\n",
    "pod": "steps:\n  - plugins:\n      - kubernetes: {{podSpec: {{containers: [{{image: "
    "'{image}'}}]}}}}\n",
    "pod, third-party": "steps:\n  - depends_on: b\n    plugins:\n      - kubernetes: {{podSpec: "
    "{{containers: [{{image: 'postgres:16'}}]}}}}\n",
    "pod, digest": "steps:\n  - plugins:\n      - kubernetes: {{podSpecPatch: {{containers: [{{image: "
    "'{repo}@sha256:" + "a" * 64 + "'}}]}}}}\n",
    "step image, digest": "steps:\n  - image: {repo}@sha256:" + "a" * 64 + "\n    command: make\n",
    "step image, third-party": "steps:\n  - image: alpine:3\n    command: make\n",
    "compose, pulled by digest": "steps:\n  - plugins:\n      - docker-compose#v5: {{run: app, "
    "run-image: '{repo}@sha256:" + "a" * 64 + "'}}\n",
    "compose, third-party": "steps:\n  - plugins:\n      - docker-compose#v5: {{run: app, "
    "run-image: alpine}}\n",
    "step image": "steps:\n  - image: {image}\n    command: make\n",
    "environment of a step": "steps:\n  - command: make\n    env: {{X: docker pull {repo}}}\n",
    "label": "steps:\n  - label: docker pull {repo}\n    command: make\n",
    "unreadable shell": "steps:\n  - command: 'if then docker pull {image}'\n",
    "skipped": "steps:\n  - command: docker push {image}\n    key: b\n    skip: true\n",
    "trigger": "steps:\n  - trigger: docker-pull\n",
    "wait and block": "steps:\n  - wait\n  - block: docker pull {repo}\n",
}

JOB = "on: push\njobs:\n  a:\n    runs-on: gpu\n"
GITHUB = {
    "not pushed": JOB + "    steps:\n      - uses: docker/build-push-action@v6\n        with:\n"
    "          tags: {image}\n",
    "push false": JOB + "    steps:\n      - uses: docker/build-push-action@v6\n        with:\n"
    "          tags: {image}\n          push: false\n",
    "loaded": JOB + "    steps:\n      - uses: docker/build-push-action@v6\n        with:\n"
    "          tags: {image}\n          load: true\n",
    "by digest": JOB + "    steps:\n      - uses: docker/build-push-action@v6\n        with:\n"
    "          outputs: type=image,name={repo},push-by-digest=true,push=true\n",
    "third-party push": JOB + "    steps:\n      - uses: docker/build-push-action@v6\n"
    "        with:\n          tags: other/x\n          push: true\n",
    "bake without push": JOB
    + "    steps:\n      - uses: docker/bake-action@v6\n        with: {{set: '*.tags={image}'}}\n",
    "bake of another image": JOB
    + "    steps:\n      - uses: docker/bake-action@v6\n        with:\n"
    "          push: true\n          set: '*.tags=other.example/x'\n",
    "service, third-party": JOB
    + "    services: {{db: {{image: 'postgres:16'}}}}\n    steps: [{{run: make}}]\n",
    "service, digest": JOB + "    services: {{db: {{image: '{repo}@sha256:" + "a" * 64 + "'}}}}\n"
    "    steps: [{{run: make}}]\n",
    "docker action, third-party": JOB + "    steps:\n      - uses: docker://alpine:3\n",
    "docker action, digest": JOB
    + "    steps:\n      - uses: docker://{repo}@sha256:"
    + "a" * 64
    + "\n",
    "composite, third-party": "runs:\n  using: composite\n  steps:\n    - shell: bash\n"
    "      run: docker pull alpine\n",
    "composite, another shell": "runs:\n  using: composite\n  steps:\n    - shell: pwsh\n"
    "      run: docker pull {image}\n",
    "composite, a build": "runs:\n  using: composite\n  steps:\n    - shell: bash\n"
    "      run: docker push {image}\n",
    "composite, a string": "runs:\n  using: composite\n  steps:\n    - shell: bash\n"
    "      run: ssh host 'docker pull {image}'\n",
    "bake file": JOB + "    steps:\n      - uses: docker/bake-action@v6\n        with:\n"
    "          push: true\n",
    "another action": JOB + "    steps:\n      - uses: x/build-push-action@v6\n        with:\n"
    "          tags: {image}\n          push: true\n",
    "matrix and steps": JOB + "    strategy: {{matrix: {{a: [1]}}}}\n    steps:\n"
    "      - uses: docker/build-push-action@v6\n        with:\n"
    "          tags: {repo}:${{{{ steps.x.outputs.y }}}}\n          push: true\n",
    "container": JOB + "    container: {image}\n    steps: [{{run: make}}]\n",
    "hosted container": JOB.replace("gpu", "ubuntu-latest")
    + "    container: {image}\n    steps: [{{run: make}}]\n",
    "service": JOB + "    services:\n      x: {{image: '{image}'}}\n    steps: [{{run: make}}]\n",
    "docker action": JOB + "    steps:\n      - uses: docker://{image}\n",
    "inside the container": JOB
    + "    container: other\n    steps:\n      - run: docker pull {image}\n",
    "PowerShell": JOB + "    steps:\n      - run: docker pull {image}\n        shell: pwsh\n",
    "default shell": JOB
    + "    defaults: {{run: {{shell: python}}}}\n    steps:\n      - run: docker pull {image}\n",
    "Windows": JOB.replace("gpu", "windows-latest")
    + "    steps:\n      - run: docker pull {image}\n",
    "third-party": JOB + "    steps:\n      - run: docker run --rm alpine true\n",
    "pinned": JOB + "    steps:\n      - run: docker pull {repo}@sha256:" + "a" * 64 + "\n",
    "comment": JOB
    + "    steps:\n      - run: |\n          # docker pull {image}\n          make\n",
    "heredoc": JOB
    + "    steps:\n      - run: |\n          cat <<X\n          docker pull {image}\n          X\n",
    "environment": JOB + "    steps:\n      - run: make\n        env: {{A: docker pull {repo}}}\n",
    "output of another job": JOB
    + "    steps:\n      - run: docker pull ${{{{ needs.z.outputs.image }}}}\n",
    "reusable workflow": "on: push\njobs:\n  a:\n    uses: ./.github/workflows/x.yml\n",
}


@pytest.mark.parametrize("name", BUILDKITE)
def test_buildkite(name: str) -> None:
    text = BUILDKITE[name].format(image=f"{OURS}:1", repo=OURS)
    result = rewrite(text, read_settings(PATTERNS))
    assert result.text == text, [site.change for site in result.plan.sites]
    assert all(site.reason for site in result.plan.sites)


@pytest.mark.parametrize("name", GITHUB)
def test_github(name: str) -> None:
    text = GITHUB[name].format(image=f"{OURS}:1", repo=OURS)
    result = rewrite(text, read_settings(PATTERNS))
    assert result.text == text, [site.change for site in result.plan.sites]
    assert all(site.reason for site in result.plan.sites)


@pytest.mark.parametrize("name", ["string in an argument", "other registry", "pod", "skipped"])
def test_what_is_left_alone_is_said(name: str) -> None:
    text = BUILDKITE[name].format(image=f"{OURS}:1", repo=OURS)
    (site,) = rewrite(text, read_settings(PATTERNS)).plan.sites
    assert not site.change
    assert site.reason


def test_without_settings_only_what_is_pushed_here_is_pulled_lazily() -> None:
    text = textwrap.dedent(f"""\
        steps:
          - key: b
            command: docker push {OURS}:1
          - command: docker pull {OURS}:1
          - command: docker pull reg.example/team/other:1
        """)
    changes = [bool(site.change) for site in rewrite(text).plan.sites]
    assert changes == [True, True, False]
