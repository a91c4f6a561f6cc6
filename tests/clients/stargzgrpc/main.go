// containerd-stargz-grpc: stargz-snapshotter's service on a Unix socket. The project's own command
// is in a module that cannot be fetched by its version; the service behind it is the same.
package main

import (
	"context"
	"flag"
	"net"
	"os"
	"os/signal"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/log"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/containerd/stargz-snapshotter/service/keychain/dockerconfig"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/grpc"
)

func main() {
	address := flag.String("address", "/run/containerd-stargz-grpc/containerd-stargz-grpc.sock", "the socket")
	root := flag.String("root", "/var/lib/containerd-stargz-grpc", "where state is kept")
	configPath := flag.String("config", "/etc/containerd-stargz-grpc/config.toml", "the configuration")
	level := flag.String("log-level", "info", "the least level that is logged")
	flag.Parse()
	ctx := context.Background()
	if err := log.SetLevel(*level); err != nil {
		log.L.WithError(err).Fatal("cannot set the log level")
	}
	if err := log.SetFormat(log.JSONFormat); err != nil {
		log.L.WithError(err).Fatal("cannot set the log format")
	}
	if err := serve(ctx, *address, *root, *configPath); err != nil {
		log.G(ctx).WithError(err).Fatal("stopped")
	}
}

func serve(ctx context.Context, address, root, configPath string) error {
	var config service.Config
	text, err := os.ReadFile(configPath)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := toml.Unmarshal(text, &config); err != nil {
		return err
	}
	snapshotter, err := service.NewStargzSnapshotterService(ctx, root, &config,
		service.WithCredsFuncs(dockerconfig.NewDockerconfigKeychain(ctx)))
	if err != nil {
		return err
	}
	// Left behind by a process that was killed.
	if err := os.RemoveAll(address); err != nil {
		return err
	}
	listener, err := net.Listen("unix", address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	log.G(ctx).WithField("address", address).Info("serving")
	select {
	case err = <-failed:
	case <-stop:
		server.GracefulStop()
	}
	if closed := snapshotter.Close(); err == nil {
		err = closed
	}
	return err
}
