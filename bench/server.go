package bench

import (
	"encoding/json"
	"errors"
	"io"
	"runtime"

	"github.com/varvefs/varve/unionfs"
)

// serving is what a server with an index mounts.
type serving struct {
	Mnt, Upper, Work, Index string
	Lowers, IDs             []string
}

// serveIndexed shows the stack with the index of its layers, built before.
func serveIndexed(s *stack) (*view, error) {
	path, ids, err := s.buildIndex()
	if err != nil {
		return nil, err
	}
	upper, work, remove, err := s.upper()
	if err != nil {
		return nil, err
	}
	cmd, err := helper("server", serving{s.mnt, upper, work, path, s.lowers, ids})
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	v, err := serve(cmd, s.mnt)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	stop := v.stop
	v.stop = func() error { return errors.Join(stop(), remove()) }
	return v, nil
}

// runServer serves until it is unmounted, with as many Go processors as
// `varve mount` takes.
func runServer(in io.Reader, _ io.Writer) error {
	runtime.GOMAXPROCS(max(8, 2*runtime.NumCPU()))
	var o serving
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return err
	}
	opt := unionfs.Options{Upper: o.Upper, Work: o.Work, Index: o.Index, AllowOther: true, Suid: true}
	for i, dir := range o.Lowers {
		opt.Lowers = append(opt.Lowers, unionfs.Lower{Path: dir, ID: o.IDs[i]})
	}
	server, err := unionfs.Mount(o.Mnt, opt)
	if err != nil {
		return err
	}
	server.Wait()
	return nil
}
