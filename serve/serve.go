package serve

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/nbdserver"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore/reading"
)

// Request says what is served and where.
type Request struct {
	Domain string
	At     string   // a point's id, a time or latest, as [repository.Repository.Find] takes it
	Disks  []string // targets; none means all
	// Socket is the path of a socket that is made for this user; Listen is an address of this host
	// alone, with a port. Both empty: a socket of a default name.
	Socket, Listen string
	// ForQEMU gives the socket to the owner of its directory: QEMU's user, in guest.DefaultRunDir.
	ForQEMU bool
	// Pin is the id of a pin of the point, if there is one: it keeps the point as it is, not the
	// lock for readers, and Run returns when it is gone. Prune goes on with the other points.
	Pin string
	// Log gets warnings, and errors for what is damaged. nil means none.
	Log *slog.Logger
	// Failed gets these errors too, if it is not nil: at once, from several goroutines.
	Failed func(error)
}

// Served is a point that is being served.
type Served struct {
	Domain string    `json:"domain"`
	Point  string    `json:"point"`
	Time   time.Time `json:"time"` // when the point was taken
	Disks  []Disk    `json:"disks"`
}

// Disk is one of them.
type Disk struct {
	Target      string `json:"target"` // and the name of the export
	VirtualSize int64  `json:"virtual_size"`
	URI         string `json:"uri"` // of the NBD export
}

// Run serves a point until ctx is cancelled, and returns its cause. ready is called once clients
// can connect; its error ends the server. None of the domain's points is replaced or deleted until
// Run returns, where that can be ensured ([repository.Repository.Read]).
//
// Errors: fail.Usage, fail.NotFound, *damage.Error; nothing is served then.
func Run(ctx context.Context, repo *repository.Repository, r Request, ready func(Served) error) error {
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	if r.Socket != "" && r.Listen != "" {
		return fail.Errorf(fail.Usage, "leave out one of them", "--socket and --listen exclude each other")
	}
	if r.Pin != "" {
		return whilePinned(ctx, repo, r.Domain, r.Pin, func(ctx context.Context, pin keep.Pin) error { return r.serve(ctx, repo, pin, ready) })
	}
	return repo.Read(ctx, r.Domain, func() error { return r.serve(ctx, repo, keep.Pin{}, ready) })
}

func (r Request) serve(ctx context.Context, repo *repository.Repository, pin keep.Pin, ready func(Served) error) (err error) {
	point, err := reading.Open(repo, r.Domain, r.At, r.Disks, reading.Options{Log: r.Log, Cached: true})
	if err != nil {
		return err
	}
	if err := checkPinned(pin, point.Manifest); err != nil {
		return err
	}
	served := Served{Domain: point.Domain, Point: point.ID, Time: point.Time}
	server := &nbdserver.Server{Log: r.Log}
	failed := &failures{log: r.Log, explain: point.Explain, report: r.Failed, seen: map[string]bool{}}
	for _, d := range point.Disks() {
		images, closeImages, err := point.OpenDisk(ctx, d.Target)
		if err != nil {
			return point.Explain(err)
		}
		defer closeImages()
		server.Exports = append(server.Exports, nbdserver.Export{Name: d.Target, Disk: newDisk(images, failed.of(d.Target)),
			Description: "disk " + d.Target + " of domain " + point.Domain + ", " + point.ID + " of " + manifest.TimeText(point.Time)})
		served.Disks = append(served.Disks, Disk{Target: d.Target, VirtualSize: images.Size()})
	}
	l, err := r.listen(point.ID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.remove()) }()
	for i, d := range served.Disks {
		served.Disks[i].URI = l.uri(d.Target)
	}
	if err := ready(served); err != nil {
		return err
	}
	if err := server.Serve(ctx, l); err != nil {
		return err
	}
	return context.Cause(ctx)
}
