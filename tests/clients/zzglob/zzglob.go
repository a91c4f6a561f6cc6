// Package zzglob stands in for drjosh.dev/zzglob, which not every Go module proxy serves.
//
// It holds just what buildkite-agent calls, over doublestar, and only so that the agent builds.
// Globbing differs from the real one in corners: "**" crosses folders only as a whole path segment,
// and the walk names matches alone, never the folders on the way to them.
package zzglob

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Pattern is a checked glob pattern.
type Pattern struct{ glob string }

type (
	// ParseOption changes how Parse reads a pattern.
	ParseOption func(*parsing)
	// GlobOption changes how files are looked for.
	GlobOption func(*walking)
)

type parsing struct{ tilde bool }

type walking struct{ follow bool }

// ExpandTilde says whether a leading "~/" is the home folder, as it is by default.
func ExpandTilde(yes bool) ParseOption { return func(p *parsing) { p.tilde = yes } }

// TraverseSymlinks says whether linked folders are entered, as they are by default.
func TraverseSymlinks(yes bool) GlobOption { return func(w *walking) { w.follow = yes } }

// WalkIntermediateDirs changes nothing here: the agent wants it for its error messages only.
func WalkIntermediateDirs(bool) GlobOption { return func(*walking) {} }

// Parse checks a pattern.
func Parse(pattern string, opts ...ParseOption) (*Pattern, error) {
	how := parsing{tilde: true}
	for _, set := range opts {
		set(&how)
	}
	if !doublestar.ValidatePattern(pattern) {
		return nil, doublestar.ErrBadPattern
	}
	if rest, found := strings.CutPrefix(pattern, "~/"); found && how.tilde {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, err
		}
		pattern = filepath.ToSlash(home) + "/" + rest
	}
	return &Pattern{glob: pattern}, nil
}

// Match says whether the pattern covers the whole path.
func (p *Pattern) Match(path string) bool {
	matches, err := doublestar.Match(p.glob, path)
	return err == nil && matches
}

// Glob calls found for each file or folder that matches the pattern.
func (p *Pattern) Glob(found fs.WalkDirFunc, opts ...GlobOption) error {
	how := walking{follow: true}
	for _, set := range opts {
		set(&how)
	}
	var rules []doublestar.GlobOption
	if !how.follow {
		rules = append(rules, doublestar.WithNoFollow())
	}
	base, rest := doublestar.SplitPattern(p.glob)
	visit := func(path string, entry fs.DirEntry) error {
		return found(filepath.Join(base, path), entry, nil)
	}
	err := doublestar.GlobWalk(os.DirFS(base), rest, visit, rules...)
	if errors.Is(err, fs.SkipAll) {
		return nil
	}
	return err
}

// MultiGlob globs one pattern after the other, until the context ends.
func MultiGlob(
	ctx context.Context, patterns []*Pattern, found fs.WalkDirFunc, opts ...GlobOption,
) error {
	for _, pattern := range patterns {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := pattern.Glob(found, opts...); err != nil {
			return err
		}
	}
	return nil
}
