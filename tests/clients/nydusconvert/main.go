// nydusconvert is the peer of `lazyci convert --format nydus`: nydus-snapshotter's converter
// library, as nydusify and acceleration-service use it, over containerd's local content store.
//
//	nydusconvert -nydus-image PATH -work FOLDER [-oci-ref] SOURCE TARGET
//
// It pulls, converts, merges and pushes, and prints the seconds of each as JSON.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	imageconverter "github.com/containerd/containerd/v2/core/images/converter"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/nydus-snapshotter/pkg/converter"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"
)

// Containerd's own default.
const downloads = 3

// labels keeps in memory what the local store does not keep by itself.
type labels struct {
	mutex sync.Mutex
	all   map[digest.Digest]map[string]string
}

func (l *labels) Get(key digest.Digest) (map[string]string, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return maps.Clone(l.all[key]), nil
}

func (l *labels) Set(key digest.Digest, value map[string]string) error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.all[key] = maps.Clone(value)
	return nil
}

func (l *labels) Update(key digest.Digest, change map[string]string) (map[string]string, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	value := maps.Clone(l.all[key])
	if value == nil {
		value = map[string]string{}
	}
	for name, text := range change {
		if text == "" {
			delete(value, name)
		} else {
			value[name] = text
		}
	}
	l.all[key] = value
	return maps.Clone(value), nil
}

func run(builder, work string, ociRef bool, source, target string) (map[string]float64, error) {
	ctx := context.Background()
	seconds := map[string]float64{}
	started := time.Now()
	lap := func(name string) {
		seconds[name] = time.Since(started).Seconds()
		started = time.Now()
	}

	store, err := local.NewLabeledStore(
		filepath.Join(work, "content"), &labels{all: map[digest.Digest]map[string]string{}},
	)
	if err != nil {
		return nil, err
	}
	resolver := docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost)),
	})
	name, original, err := resolver.Resolve(ctx, source)
	if err != nil {
		return nil, err
	}
	fetcher, err := resolver.Fetcher(ctx, name)
	if err != nil {
		return nil, err
	}
	fetch := images.Handlers(remotes.FetchHandler(store, fetcher), images.ChildrenHandler(store))
	if err := images.Dispatch(ctx, fetch, semaphore.NewWeighted(downloads), original); err != nil {
		return nil, err
	}
	lap("pull")

	convert := imageconverter.IndexConvertFuncWithHook(
		converter.LayerConvertFunc(converter.PackOption{
			WorkDir: work, BuilderPath: builder, FsVersion: "6", Compressor: "zstd", OCIRef: ociRef,
		}),
		true,
		platforms.DefaultStrict(),
		imageconverter.ConvertHooks{PostConvertHook: converter.ConvertHookFunc(converter.MergeOption{
			WorkDir: work, BuilderPath: builder, FsVersion: "6", OCI: true, OCIRef: ociRef,
		})},
	)
	converted, err := convert(ctx, store, original)
	if err != nil {
		return nil, err
	}
	lap("convert")

	pusher, err := resolver.Pusher(ctx, target)
	if err != nil {
		return nil, err
	}
	err = remotes.PushContent(ctx, pusher, *converted, store, nil, platforms.All, nil)
	lap("push")
	return seconds, err
}

func main() {
	builder := flag.String("nydus-image", "nydus-image", "path of nydus-image")
	work := flag.String("work", "", "folder for blobs and temporary files")
	ociRef := flag.Bool("oci-ref", false, "make an index only")
	flag.Parse()
	if flag.NArg() != 2 || *work == "" {
		log.Fatal("usage: nydusconvert -nydus-image PATH -work FOLDER [-oci-ref] SOURCE TARGET")
	}
	seconds, err := run(*builder, *work, *ociRef, flag.Arg(0), flag.Arg(1))
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(seconds); err != nil {
		log.Fatal(err)
	}
}
