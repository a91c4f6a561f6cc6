#!/bin/sh
# What lazyci does to a pipeline like vLLM's: plan, rewrite, let the real client read it, undo.
# Called by `make demo`, which sets BIN (programs) and EXAMPLE (a folder of pipelines/).
set -eu

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
lazyci=$(cd "$BIN" && pwd)/lazyci
client=$("$BIN/python" tests/clients/install.py --path buildkite-agent 2>/dev/null || true)
cp "$EXAMPLE/before.yml" "$work/pipeline.yml"
cp "$EXAMPLE/lazyci.yaml" "$work/"
mkdir "$work/.git"
cd "$work"

title() { printf '\n== %s\n\n' "$*"; }

title "1. The plan: lazyci plan pipeline.yml"
"$lazyci" plan pipeline.yml

title "2. The rewriting: lazyci generate --write pipeline.yml"
cp pipeline.yml original.yml
"$lazyci" generate --diff pipeline.yml
"$lazyci" generate --write pipeline.yml

title "3. The real client reads it: buildkite-agent pipeline upload --dry-run"
if [ -n "$client" ]; then
  env -i PATH=/usr/bin:/bin BUILDKITE_COMMIT=c0ffee "$client" pipeline upload --dry-run \
    --format json --log-level error --apply-if-changed=false --agent-access-token dummy \
    pipeline.yml > uploaded.json
  echo "accepted: $(grep -c '"key": "lazyci-convert' uploaded.json) convert steps," \
    "$(grep -c 'plugins/lazyci"' uploaded.json) lazy pulls"
else
  echo "left out: buildkite-agent is not installed; \`make clients\` builds it (needs Go)"
fi

title "4. As a filter, where anything goes wrong: the input comes out unchanged"
printf 'steps: [' | "$lazyci" generate - || exit 1
echo

title "5. All of it back: lazyci generate --undo --write pipeline.yml"
"$lazyci" generate --undo --write pipeline.yml
cmp pipeline.yml original.yml
echo "pipeline.yml is byte for byte what it was"
