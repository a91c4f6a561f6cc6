// stargzcheck reads an eStargz or zstd:chunked layer as stargz-snapshotter does and prints its
// tree as JSON: `stargzcheck BLOB TOC_DIGEST`.
//
// The layer is opened through the snapshotter's own metadata reader, the digest of the TOC is
// compared, and each regular file is read chunk by chunk, each chunk against its digest in the TOC.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/containerd/stargz-snapshotter/metadata"
	"github.com/containerd/stargz-snapshotter/metadata/memory"
	digest "github.com/opencontainers/go-digest"
)

type node struct {
	Type    string            `json:"type"`
	Mode    uint32            `json:"mode"`
	UID     int               `json:"uid"`
	GID     int               `json:"gid"`
	Seconds int64             `json:"seconds"`
	Nanos   int               `json:"nanos"`
	Links   int               `json:"links"`
	ID      uint32            `json:"id"`
	Size    int64             `json:"size"`
	Link    string            `json:"link"`
	Major   int               `json:"major"`
	Minor   int               `json:"minor"`
	Xattrs  map[string][]byte `json:"xattrs"`
	Digest  string            `json:"digest"`
	Chunks  int               `json:"chunks"`
}

type checker struct {
	reader metadata.Reader
	tree   map[string]node
	digest map[uint32]string
	chunks map[uint32]int
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: stargzcheck BLOB TOC_DIGEST")
		os.Exit(2)
	}
	tree, err := check(os.Args[1], digest.Digest(os.Args[2]))
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(tree)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(name string, toc digest.Digest) (map[string]node, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	blob := io.NewSectionReader(file, 0, info.Size())
	reader, err := memory.NewReader(blob, metadata.WithDecompressors(new(estargz.GzipDecompressor), new(zstdchunked.Decompressor)))
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	if reader.TOCDigest() != toc {
		return nil, fmt.Errorf("the TOC's digest is %s, not %s", reader.TOCDigest(), toc)
	}
	c := &checker{reader, map[string]node{}, map[uint32]string{}, map[uint32]int{}}
	return c.tree, c.walk(reader.RootID(), "")
}

func (c *checker) walk(id uint32, name string) error {
	attr, err := c.reader.GetAttr(id)
	if err != nil {
		return err
	}
	if err := c.add(id, name, attr); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !attr.Mode.IsDir() {
		return nil
	}
	var inner error
	err = c.reader.ForeachChild(id, func(base string, child uint32, _ os.FileMode) bool {
		inner = c.walk(child, path.Join(name, base))
		return inner == nil
	})
	if err == nil {
		err = inner
	}
	return err
}

func (c *checker) add(id uint32, name string, attr metadata.Attr) error {
	n := node{
		Type: kind(attr.Mode), Mode: permissions(attr.Mode), UID: attr.UID, GID: attr.GID,
		Seconds: attr.ModTime.Unix(), Nanos: attr.ModTime.Nanosecond(), Links: attr.NumLink, ID: id,
		Link: attr.LinkName, Major: attr.DevMajor, Minor: attr.DevMinor, Xattrs: attr.Xattrs,
	}
	if attr.Mode.IsRegular() {
		n.Size = attr.Size
		if _, seen := c.digest[id]; !seen {
			if err := c.read(id, attr.Size); err != nil {
				return err
			}
		}
		n.Digest, n.Chunks = c.digest[id], c.chunks[id]
	}
	c.tree[name] = n
	return nil
}

// read reads a file the way the snapshotter's page cache is filled: the chunks that lie before it
// in its member are handed to the callback, which checks them as those of the file they belong to.
func (c *checker) read(id uint32, size int64) error {
	file, err := c.reader.OpenFileWithPreReader(id, func(other uint32, _, chunkSize int64, want string, r io.Reader) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if int64(len(data)) != chunkSize {
			return fmt.Errorf("chunk of %d bytes has %d", chunkSize, len(data))
		}
		return compare(data, want)
	})
	if err != nil {
		return err
	}
	whole := digest.Canonical.Digester()
	chunks := 0
	for at := int64(0); at < size; chunks++ {
		offset, chunkSize, want, ok := file.ChunkEntryForOffset(at)
		if !ok || offset != at {
			return fmt.Errorf("no chunk at %d", at)
		}
		data := make([]byte, chunkSize)
		if _, err := file.ReadAt(data, at); err != nil {
			return err
		}
		if err := compare(data, want); err != nil {
			return fmt.Errorf("chunk at %d: %w", at, err)
		}
		whole.Hash().Write(data)
		at += chunkSize
	}
	if size > 0 {
		if _, err := file.ReadAt(make([]byte, 1), size-1); err != nil {
			return err
		}
	}
	c.digest[id], c.chunks[id] = whole.Digest().String(), chunks
	return nil
}

func compare(data []byte, want string) error {
	if got := digest.FromBytes(data).String(); got != want {
		return fmt.Errorf("digest is %s, not %s", got, want)
	}
	return nil
}

func kind(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return "reg"
	case mode.IsDir():
		return "dir"
	case mode&fs.ModeSymlink != 0:
		return "symlink"
	case mode&fs.ModeNamedPipe != 0:
		return "fifo"
	case mode&fs.ModeCharDevice != 0:
		return "char"
	case mode&fs.ModeDevice != 0:
		return "block"
	}
	return "unknown"
}

func permissions(mode fs.FileMode) uint32 {
	bits := uint32(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		bits |= 0o4000
	}
	if mode&fs.ModeSetgid != 0 {
		bits |= 0o2000
	}
	if mode&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}
