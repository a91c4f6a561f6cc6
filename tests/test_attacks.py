"""What once went wrong, or was tried to make it go wrong; each by the smallest text that shows it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time

import pytest

from lazyci.config import read_settings
from lazyci.errors import InputError
from lazyci.pipeline import rewrite, undo
from tests.helpers import load, meaning

IMAGES = "images: [{match: 'reg.io/*'}]\n"
R = "reg.io/app:1"
JOB = "on: push\njobs:\n  a:\n    runs-on: gpu\n    steps:\n"


def lazy(text: str, settings: str = IMAGES) -> str:
    result = rewrite(text, read_settings(settings))
    assert undo(result.text) == text
    assert rewrite(result.text, read_settings(settings)).text == result.text
    assert meaning(result.text) == meaning(text)
    return result.text


def reasons(text: str, settings: str = IMAGES) -> list[str]:
    return [s.reason for s in rewrite(text, read_settings(settings)).plan.sites if not s.change]


UNDONE = {
    "comment line that ends a block scalar": "steps:\n  - command: |\n      docker push reg.io/a:1\n"
    "      # done\n    label: x\n",
    "comment line before the next step": JOB + "      - uses: actions/checkout@v4\n      - run: |\n"
    "          make\n          # done\n      - run: docker pull reg.io/a:1\n",
    "comment line in quotes": "steps:\n  - command: 'docker push reg.io/a:1\n\n      # done'\n"
    "    label: x\n",
    "no final newline, key and step": f"steps:\n  - command: docker push {R}",
    "the same in a group": f"steps:\n  - group: g\n    steps:\n      - command: docker push {R}",
    "only plugins": "steps:\n  - plugins:\n      - docker-compose#v5:\n          push: app:reg.io/a:1\n"
    "          run: app\n",
    "complex key": f"steps:\n  - ? command\n    : docker push {R}\n",
    "empty key": f"steps:\n  - key:\n    command: docker push {R}\n",
    "empty outputs": JOB.replace("    steps", "    outputs:\n    steps")
    + "      - uses: docker/build-push-action@v6\n        with:\n          push: true\n"
    "          tags: reg.io/a:${{ steps.x.outputs.y }}\n",
    "outputs of a job in flow style": "on: push\njobs:\n  a: {runs-on: gpu, steps: [{uses: "
    'docker/build-push-action@v6, with: {push: true, tags: "reg.io/a:${{ steps.m.outputs.y }}"}}]}\n',
    "retry with an expression": JOB + "      - uses: nick-fields/retry@v3\n        with:\n"
    "          command: docker pull reg.io/a:${{ github.sha }}\n",
    "plugins as a mapping": f"steps:\n  - plugins:\n      docker#v5: {{image: '{R}'}}\n",
    "hash in an output": JOB + "      - uses: docker/build-push-action@v6\n        with:\n"
    "          tags: reg.io/a:1\n          push: \"${{ steps.m.outputs.x == 'a #b' }}\"\n",
    "two images in place, one lone need": "on: push\njobs:\n  a:\n    runs-on: gpu\n    steps:\n"
    "      - run: docker push reg.io/a:1 && docker push reg.io/b:1\n  t:\n    needs: a\n"
    "    runs-on: gpu\n    container: reg.io/a:1\n    services: {x: {image: 'reg.io/b:1'}}\n"
    "    steps: [{run: make}]\n",
    "brackets": f"steps:\n  - command: |\n      (docker run {R}); x=$(docker pull {R})\n"
    f"      time (docker run {R}); echo ${{X:-$(docker run {R})}}\n",
}


@pytest.mark.parametrize("name", UNDONE)
@pytest.mark.parametrize("settings", [IMAGES, IMAGES + "publish: in-place\n"])
def test_undone_and_the_same_elsewhere(name: str, settings: str) -> None:
    lazy(UNDONE[name], settings)
    lazy(UNDONE[name].replace("\n", "\r\n"), settings)


def test_outputs_are_quoted_where_yaml_needs_it() -> None:
    text = lazy(UNDONE["hash in an output"])
    outputs = load(text)["jobs"]["a"]["outputs"]
    assert outputs == {"lazyci-when-1": "${{ steps.m.outputs.x == 'a #b' }}"}


def test_braces_around_variables_stay() -> None:
    text = lazy(
        "steps:\n  - key: b\n    plugins:\n      - docker-compose#v5:\n"
        "          push: 'app:reg.io/a:${BUILDKITE_BUILD_NUMBER}_x'\n"
        "  - plugins:\n      - docker-compose#v5: {run: app}\n"
    )
    assert text.count("reg.io/a:${BUILDKITE_BUILD_NUMBER}_x") == 3


def test_login_behind_the_docker_plugin() -> None:
    """Hooks of plugins in the repository run last; those of cloned ones run in their order."""
    text = (
        f"steps:\n  - plugins:\n      - docker#v5: {{image: '{R}', always-pull: true}}\n"
        "      - docker-login#v3: {username: x}\n"
    )
    assert "plugins/lazyci" in lazy(text)
    remote = IMAGES + "pull: {plugin: 'team/lazyci#v1'}\n"
    assert lazy(text, remote) == text


CYCLES = {
    "own image": f"steps:\n  - key: t\n    image: {R}\n    depends_on: p\n    command: docker push {R}\n"
    "  - key: p\n    command: make\n",
    "github, own image": "on: push\njobs:\n  p: {runs-on: gpu, steps: [{run: make}]}\n  a:\n"
    f"    needs: p\n    runs-on: gpu\n    container: {R}\n    steps: [{{run: docker push {R}}}]\n",
    "github, by another": "on: push\njobs:\n  p: {runs-on: gpu, steps: [{run: make}]}\n"
    f"  t: {{needs: p, runs-on: gpu, container: '{R}', steps: [{{run: make}}]}}\n"
    f"  a: {{needs: t, runs-on: gpu, steps: [{{run: docker push {R}}}]}}\n",
    "may be skipped": "on: push\njobs:\n"
    f"  a: {{runs-on: gpu, steps: [{{run: docker push {R}}}]}}\n"
    f"  b: {{if: github.x, runs-on: gpu, steps: [{{run: docker push {R}}}]}}\n"
    f"  t: {{needs: a, runs-on: gpu, container: '{R}', steps: [{{run: make}}]}}\n",
}


@pytest.mark.parametrize("name", CYCLES)
def test_nothing_waits_for_itself_or_for_what_may_be_skipped(name: str) -> None:
    text = lazy(CYCLES[name], IMAGES + "publish: in-place\n")
    data = load(text)
    for step in data.get("steps", []):
        if not step["key"].startswith("lazyci"):
            assert "lazyci" not in str(step.get("depends_on"))
    for job, body in data.get("jobs", {}).items():
        if not job.startswith("lazyci"):
            assert "lazyci" not in str(body.get("needs"))


PUSH = (
    JOB + "      - uses: docker/build-push-action@v6\n        with:\n          tags: reg.io/a:1\n"
)


@pytest.mark.parametrize(
    ("step", "condition"),
    [
        ("          push: true\n", None),
        ("          push: ${{ github.ref == 'x' }}\n", "${{ github.ref == 'x' }}"),
        ("          push: ${{ inputs.push }}\n", "${{ format('{0}', inputs.push) == 'true' }}"),
        (
            "          push: true\n        if: github.event.inputs.tag\n",
            "${{ github.event.inputs.tag }}",
        ),
        (
            "          push: true\n        if: github.a || github.b\n",
            "${{ (github.a || github.b) }}",
        ),
        (
            "          push: true\n        if: steps.x.outputs.tag\n",
            "${{ format('{0}', needs.a.outputs.lazyci-when-1) == 'true' }}",
        ),
        ("          push: ${{ secrets.X != '' }}\n", ""),
        ("          push: ${{ matrix.push }}\n", ""),
        ("          push: true\n        if: always()\n", ""),
        ("          push: true\n        if: hashFiles('D') != ''\n", ""),
    ],
)
def test_when_a_build_pushes(step: str, condition: str | None) -> None:
    jobs = load(lazy(PUSH + step))["jobs"]
    if condition == "":
        assert list(jobs) == ["a"]
    else:
        assert jobs["lazyci-convert-a-1"].get("if") == condition
    outputs = jobs["a"].get("outputs", {})
    assert outputs in ({}, {"lazyci-when-1": "${{ (steps.x.outputs.tag) && 'true' || 'false' }}"})


def test_needs_by_index_are_needed() -> None:
    text = (
        "on: push\njobs:\n  pre: {runs-on: gpu, steps: [{run: x}]}\n  a:\n    needs: pre\n"
        "    runs-on: gpu\n    steps:\n      - uses: docker/build-push-action@v6\n        with:\n"
        "          push: true\n          tags: reg.io/a:${{ needs['pre'].outputs.tag }}\n"
    )
    assert load(lazy(text))["jobs"]["lazyci-convert-a"]["needs"] == ["a", "pre"]


def test_an_image_of_two_jobs_of_which_one_is_skipped() -> None:
    text = lazy(
        "on: push\njobs:\n"
        f"  a: {{if: github.x, runs-on: gpu, steps: [{{run: docker push {R}}}]}}\n"
        f"  b: {{if: '!github.x', runs-on: gpu, steps: [{{run: docker push {R}}}]}}\n"
    )
    job = load(text)["jobs"]["lazyci-convert-app-1"]
    assert job["needs"] == ["a", "b"]
    either = "(needs.a.result == 'success' || needs.b.result == 'success')"
    assert job["if"] == f"${{{{ !cancelled() && {either} }}}}"


STAY = {
    "expanded at run time": "steps:\n  - plugins:\n      - docker#v5:\n          image: reg.io/a:$$T\n"
    "          always-pull: true\n          expand-image-vars: true\n",
    "anchor that other keys use": "steps:\n  - plugins:\n      - docker#v5:\n"
    f"          image: {R}\n          always-pull: &t true\n    soft_fail: *t\n",
    "another host": f"steps:\n  - command: timeout 60 ssh host docker pull {R}\n",
    "sudo of another program": f"steps:\n  - command: sudo echo docker pull {R}\n",
    "other daemon": f"steps:\n  - command: DOCKER_HOST=ssh://x docker pull {R}\n",
    "retry in another shell": JOB + "      - uses: nick-fields/retry@v3\n        with:\n"
    f"          command: docker pull {R}\n          shell: powershell\n",
    "always-pull by alias": "steps:\n  - soft_fail: &t true\n    plugins:\n      - docker#v5:\n"
    f"          image: {R}\n          always-pull: *t\n",
    "always-pull as a block": "steps:\n  - plugins:\n      - docker#v5:\n"
    f"          image: {R}\n          always-pull: |-\n            true\n",
    "default of a run-time variable": "steps:\n  - key: k\n    env: {TAG: v}\n"
    "    command: docker push reg.io/a:$${TAG:-y}\n",
    "variable of the job": "steps:\n  - key: k\n    command: docker push reg.io/a:$$BUILDKITE_JOB_ID\n",
    "value for another shell": "steps:\n  - key: k\n    env: {V: x$$Y}\n"
    "    command: docker push reg.io/a:$$V\n",
    "environment of the step": JOB
    + "      - uses: docker/build-push-action@v6\n        env: {V: a}\n"
    "        with: {push: true, tags: \"reg.io/a:${{ env.V || 'latest' }}\"}\n",
    "output with a secret": JOB + "      - id: m\n        uses: docker/metadata-action@v5\n"
    "        with: {images: 'reg.io/${{ secrets.U }}/a'}\n      - uses: docker/build-push-action@v6\n"
    "        with: {push: true, tags: '${{ steps.m.outputs.tags }}'}\n",
    "other configuration": f"steps:\n  - command: DOCKER_CONFIG=x docker pull {R}\n",
    "other daemon by env": f"steps:\n  - command: env DOCKER_CONTEXT=x docker run {R}\n",
    "here-document with arguments": f"steps:\n  - command: |\n      docker run {R} <<EOF arg\n"
    "      x\n      EOF\n",
    "piped standard error": f"steps:\n  - command: 'docker run {R} |& cat'\n",
    "matrix of Windows": "on: push\njobs:\n  a:\n    runs-on: ${{ matrix.os }}\n"
    "    strategy: {matrix: {os: [windows-latest]}}\n    steps:\n"
    f"      - run: docker pull {R}\n",
    "labels of Windows": "on: push\njobs:\n  a:\n    runs-on: [self-hosted, windows]\n    steps:\n"
    f"      - run: docker pull {R}\n",
    "compose with more to pull": "steps:\n  - plugins:\n      - docker-compose#v5:\n"
    f"          run: app\n          run-image: {R}\n          pull: [app, worker]\n",
    "compose that pulls on purpose": "steps:\n  - plugins:\n      - docker-compose#v5:\n"
    f"          run: app\n          run-image: {R}\n          skip-pull: false\n",
}


@pytest.mark.parametrize("name", STAY)
def test_stays(name: str) -> None:
    assert lazy(STAY[name]) == STAY[name]
    assert all(reasons(STAY[name]))


OWN = {
    "keys": "steps:\n  - key: lazyci-reporter\n    command: make\n  - key: lazyci-step-x\n",
    "plugin": "steps:\n  - plugins:\n      - myorg/lazyci#v1\n      - other/lazyci#v2: {x: y}\n",
    "step": "on: push\njobs:\n  a:\n    runs-on: x\n    steps:\n      - id: lazyci\n        run: a\n",
    "hand-written": f"steps:\n  - command: ( lazyci pull {R} )\n"
    f"  - command: ( lazyci pull {R} || docker pull {R} || exit 3 )\n"
    f"  - command: ( lazyci pull {R} >&2 || true; echo x; docker run {R} )\n",
}


@pytest.mark.parametrize("name", OWN)
def test_what_only_looks_like_lazyci_stays(name: str) -> None:
    assert undo(OWN[name]) == OWN[name]
    if name != "hand-written":
        assert rewrite(OWN[name]).text == OWN[name]


def test_copied_values_keep_their_spelling() -> None:
    text = lazy(
        f"steps:\n  - key: b\n    command: docker push {R}\n    agents: {{on: a, size: 0123}}\n"
        "    plugins:\n      - ecr#v2: {account-ids: 032379705303, retries: 1e3}\n"
    )
    step = text.partition("lazyci-convert")[2]
    assert "account-ids: 032379705303" in step
    assert "retries: 1e3" in step
    assert '"on": a' in step
    assert "size: 0123" in step


def test_redirections_catch_nothing_of_lazyci() -> None:
    text = lazy(f"steps:\n  - command: 'V=$(docker run {R} --version 2>&1); echo $V'\n")
    command = load(text)["steps"][0]["command"]
    script = f"docker() {{ echo out; }}\n{command}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, env={"PATH": "/bin"}
    )
    assert done.stdout == "out\n"


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, levels)]
    return "\n".join(lines)


def test_conditions_of_a_group() -> None:
    group = "steps:\n  - group: g\n    if: |\n      build.branch == 'x' // only x\n    steps:\n"

    def last(more: str) -> dict[str, str]:
        text = lazy(group + f"      - {{key: k, {more}, command: docker push {R}}}\n")
        step: dict[str, str] = load(text)["steps"][-1]
        return step

    both = last("if: build.tag == null")
    assert both["if"] == "(build.branch == 'x' // only x\n) && (build.tag == null\n)"
    # Buildkite refuses a step that has both.
    branches = last("branches: main")
    assert branches["branches"] == "main"
    assert "if" not in branches


def test_a_matrix_in_the_agents_is_copied() -> None:
    text = lazy(
        "steps:\n  - key: k\n    matrix: [a, b]\n    agents: {queue: '{{matrix}}'}\n"
        f"    command: docker push {R}\n"
    )
    assert load(text)["steps"][-1]["matrix"] == ["a", "b"]


def test_needs_of_what_is_copied() -> None:
    text = lazy(
        "on: push\njobs:\n  pre: {runs-on: gpu, steps: [{run: x}]}\n  a:\n    needs: pre\n"
        "    strategy:\n      matrix: ${{ fromJSON(needs.pre.outputs.m) }}\n    runs-on: gpu\n"
        "    steps:\n      - uses: docker/build-push-action@v6\n"
        "        with: {push: true, tags: 'reg.io/a:${{ matrix.v }}'}\n"
    )
    job = load(text)["jobs"]["lazyci-convert-a"]
    assert job["needs"] == ["a", "pre"]


def test_a_called_workflow_asks_for_no_more_than_its_build() -> None:
    text = (
        "on: workflow_call\njobs:\n  a: {runs-on: gpu, steps: [{run: docker push ghcr.io/x/y:1}]}\n"
    )
    jobs = load(lazy(text, "report: true"))["jobs"]
    assert all("permissions" not in job for job in jobs.values())


SLOW = {
    "a chain": "steps:\n- command: " + " && ".join([f"docker pull {R}"] * 500) + "\n",
    "variables that double": f"steps:\n  - command: |\n      V0={'x' * 50}\n"
    + "".join(f"      V{n}=$V{n - 1}$V{n - 1}\n" for n in range(1, 40))
    + "      docker run $V39\n",
    "alias bomb in agents": bomb(40) + f"\nsteps:\n  - key: b\n    command: docker push {R}\n"
    "    agents: *a39\n",
    "chained merges": "x0: &x0 {k: v}\n"
    + "".join(f"x{n}: &x{n} {{<<: *x{n - 1}}}\n" for n in range(1, 5000))
    + "steps:\n  - <<: *x4999\n    command: make\n",
    "open expressions": JOB + f"      - run: docker pull reg.io/{'${{ ' * 100_000}\n",
    "open braces": f"steps:\n  - command: docker pull reg.io/{'{{ matrix' * 50_000}\n",
    "mentions": "steps:\n  - command: |\n" + f'      x "docker pull {R}"\n' * 5_000,
    "many commands": "steps:\n  - command: |\n" + f"      docker pull {R}\n" * 3_000,
    "many plugins": "steps:\n  - plugins:\n" + f"    - docker#v5: {{image: '{R}'}}\n" * 1_000,
    "many steps": "steps:\n" + f"- plugins:\n  - docker#v5: {{image: '{R}'}}\n" * 2_000,
}


@pytest.mark.parametrize("name", SLOW)
def test_bounded_time(name: str) -> None:
    started = time.monotonic()
    with contextlib.suppress(InputError):  # Refused in time is fine, too.
        rewrite(SLOW[name], read_settings(IMAGES))
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("image", ['reg.io/a:1" ; rm x', "reg.io/a:`id`", "reg.io/a:$(id)"])
def test_a_reference_is_no_shell(image: str) -> None:
    settings = IMAGES + f"builds:\n  - step: b\n    image: {json.dumps(image)}\n"
    (site,) = rewrite("steps:\n  - key: b\n    command: make\n", read_settings(settings)).plan.sites
    assert not site.change
    assert "a shell would read" in site.reason
