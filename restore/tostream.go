package restore

import (
	"context"
	"fmt"

	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

const (
	pieceBytes   = 1 << 20 // are read at once
	piecesAtOnce = 4       // are read side by side
)

// piece is a part of a disk on its way to a stream.
type piece struct {
	offset int64
	data   []byte
	read   chan error // one
}

// outputStream writes a disk to standard output, from its beginning to its end.
func (r *restorer) outputStream(ctx context.Context, d *Disk) (beyond int64, err error) {
	images, closeImages, err := r.point.OpenDisk(ctx, d.Target)
	if err != nil {
		return 0, r.point.CheckRest(ctx, err)
	}
	defer closeImages()
	err = r.stream(ctx, images, d.Target)
	if err := r.point.CheckRest(ctx, err); err != nil {
		return 0, fmt.Errorf("restore disk %s of %s@%s to standard output: %w", d.Target, r.Domain, r.point.ID, err)
	}
	d.DataBytes = images.Size()
	return 0, fault.Point("restore: done")
}

// stream reads pieces side by side and writes them in their order.
func (r *restorer) stream(ctx context.Context, images *chain.Chain, target string) error {
	group, ctx := panics.WithContext(ctx)
	free, pieces := make(chan piece, piecesAtOnce), make(chan piece, piecesAtOnce)
	for range piecesAtOnce {
		free <- piece{data: directio.Buffer(pieceBytes), read: make(chan error, 1)}
	}
	todo := make(chan piece, piecesAtOnce)
	group.Go(func() error {
		defer close(todo)
		defer close(pieces)
		for at := int64(0); at < images.Size(); at += pieceBytes {
			select {
			case p := <-free:
				p.offset = at
				todo <- p // neither waits: there are no more pieces
				pieces <- p
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range piecesAtOnce {
		group.Go(func() error { return readPieces(images, todo) })
	}
	group.Go(func() error { return r.writePieces(ctx, images, target, pieces, free) })
	return group.Wait()
}

// readPieces reads pieces until there are no more.
func readPieces(images *chain.Chain, todo <-chan piece) error {
	reader := images.NewReader()
	for p := range todo {
		var offsets []int64
		for at := p.offset; at < min(p.offset+pieceBytes, images.Size()); at += images.ClusterSize() {
			offsets = append(offsets, at)
		}
		err := fault.Point("stream: read")
		if err == nil {
			err = reader.Read(p.data[:int64(len(offsets))*images.ClusterSize()], offsets)
		}
		p.read <- err
		if err != nil {
			return err
		}
	}
	return nil
}

// writePieces writes pieces in their order, at the rate that is allowed.
func (r *restorer) writePieces(ctx context.Context, images *chain.Chain, target string, pieces <-chan piece, free chan<- piece) error {
	for p := range pieces {
		select {
		case err := <-p.read:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		data := p.data[:min(pieceBytes, images.Size()-p.offset)]
		if err := r.Limits.WaitN(ctx, len(data)); err != nil {
			return err
		}
		if err := r.writeStdout(ctx, data); err != nil {
			return err
		}
		r.Progress(target, p.offset+int64(len(data)), images.Size())
		free <- p
	}
	return nil
}

// writeStdout writes to standard output. A write to a pipe that nobody reads never ends, and
// nothing can interrupt it: it is left behind when ctx is cancelled, as the process ends then.
func (r *restorer) writeStdout(ctx context.Context, data []byte) error {
	written := panics.Go(func() error {
		_, err := r.Stdout.Write(data)
		return err
	})
	select {
	case err := <-written:
		if err != nil {
			return &streamError{err}
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// streamError says that standard output does not take what is written.
type streamError struct{ err error }

// Error is the cause.
func (e *streamError) Error() string { return fmt.Sprintf("write: %v", e.err) }

// Unwrap returns the cause.
func (e *streamError) Unwrap() error { return e.err }

// Hint says what is missing.
func (e *streamError) Hint() string {
	return "whatever reads standard output has ended, or has no space: it did not get the whole disk"
}
