package registry

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// noise is n bytes, always the same.
func noise(n int) []byte {
	source := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(source.Uint32())
	}
	return data
}

func TestBlob(t *testing.T) {
	_, r := start(t)
	for _, n := range []int{0, 1, 100_000} {
		data := noise(n)
		blob := r.Blob(t.Context(), upload(t, r, data))
		require.NoError(t, iotest.TestReader(blob, data), "%d bytes", n)
		require.NoError(t, blob.Close())
	}
}

// TestCutConnectionGoesOn breaks the connection again and again.
func TestCutConnectionGoesOn(t *testing.T) {
	reg, r := start(t)
	data := noise(1_000_000)
	d := upload(t, r, data)
	var ranges []string
	reg.Filter(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		ranges = append(ranges, req.Header.Get("Range"))
		next.ServeHTTP(testenv.CutAfter(w, 300_000), req)
	})
	got, err := io.ReadAll(r.Blob(t.Context(), d))
	require.NoError(t, err)
	require.Equal(t, data, got)
	require.Equal(t, []string{"", "bytes=300000-999999", "bytes=600000-999999", "bytes=900000-999999"}, ranges)
}

// TestCutConnectionWithoutRanges: a server that always begins at the beginning.
func TestCutConnectionWithoutRanges(t *testing.T) {
	reg, r := start(t)
	data := noise(1_000_000)
	d := upload(t, r, data)
	count := 0
	reg.Filter(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		count++
		req.Header.Del("Range")
		if count < 3 {
			w = testenv.CutAfter(w, 300_000*count)
		}
		next.ServeHTTP(w, req)
	})
	got, err := io.ReadAll(r.Blob(t.Context(), d))
	require.NoError(t, err)
	require.Equal(t, data, got)
	require.Equal(t, 3, count)
}

func TestStandingConnectionGoesOn(t *testing.T) {
	reg, r := start(t)
	data := noise(100_000)
	d := upload(t, r, data)
	var count atomic.Int32
	reg.Filter(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if count.Add(1) > 1 {
			next.ServeHTTP(w, req)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:5000])
		w.(http.Flusher).Flush()
		<-req.Context().Done()
	})
	got, err := io.ReadAll(r.Blob(t.Context(), d))
	require.NoError(t, err)
	require.Equal(t, data, got)
	require.EqualValues(t, 2, count.Load())
}

func TestBusyRegistryIsAskedAgain(t *testing.T) {
	reg, r := start(t)
	data := noise(1000)
	d := upload(t, r, data)
	count := 0
	reg.Filter(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if count++; count%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, req)
	})
	got, err := io.ReadAll(r.Blob(t.Context(), d))
	require.NoError(t, err)
	require.Equal(t, data, got)
	require.Equal(t, 2, count)
}

func TestDeadConnectionIsGivenUp(t *testing.T) {
	reg, r := start(t)
	d := upload(t, r, noise(100_000))
	reg.Filter(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Header.Get("Range") != "" {
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(testenv.CutAfter(w, 1000), req)
	})
	got, err := io.ReadAll(r.Blob(t.Context(), d))
	require.ErrorContains(t, err, "after 1000 of 100000 bytes none came for 2s")
	require.Len(t, got, 1000)
}

func TestWrongSizes(t *testing.T) {
	reg, r := start(t)
	data := noise(100_000)
	d := upload(t, r, data)

	long := d
	long.Size--
	_, err := io.ReadAll(r.Blob(t.Context(), long))
	require.ErrorIs(t, err, ErrCorrupt)
	short := d
	short.Size++
	_, err = io.ReadAll(r.Blob(t.Context(), short))
	require.ErrorIs(t, err, ErrCorrupt)

	reg.Filter(func(w http.ResponseWriter, req *http.Request, _ http.Handler) { // without a length
		if req.Header.Get("Range") != "" {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		w.(http.Flusher).Flush()
		_, _ = w.Write(data)
	})
	_, err = io.ReadAll(r.Blob(t.Context(), long))
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "more than the 99999 bytes")
	_, err = io.ReadAll(r.Blob(t.Context(), short))
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "it ends before byte 100000 of 100001")

	reg.Filter(func(w http.ResponseWriter, req *http.Request, next http.Handler) { // another range
		if req.Header.Get("Range") == "" {
			w = testenv.CutAfter(w, 1000)
		} else {
			req.Header.Set("Range", "bytes=2000-99999")
		}
		next.ServeHTTP(w, req)
	})
	_, err = io.ReadAll(r.Blob(t.Context(), d))
	require.ErrorIs(t, err, ErrCorrupt)
}

func TestAbsentBlob(t *testing.T) {
	_, r := start(t)
	_, err := io.ReadAll(r.Blob(t.Context(), describe("", []byte("absent"))))
	require.ErrorIs(t, err, ErrNotFound)
}
