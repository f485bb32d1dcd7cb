package registry

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// logIn writes a config.json with a user for the host.
func logIn(t *testing.T, host, user, password string) {
	t.Helper()
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	writeConfig(t, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, auth))
}

func writeConfig(t *testing.T, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(text), 0o600))
}

// tokens makes the registry want a token of its own service, which gives one to user
// with password, and to strangers one for reading if that is open.
func tokens(reg *testenv.Registry, open bool) (given *atomic.Int32) {
	given = &atomic.Int32{}
	reg.Filter(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		user, password, _ := req.BasicAuth()
		known := user == "user" && password == "password"
		switch bearer := req.Header.Get("Authorization"); {
		case req.URL.Path == "/token" && (known || open && user == ""):
			given.Add(1)
			token := "reader"
			if known {
				token = "writer"
			}
			_, _ = fmt.Fprintf(w, `{"token":%q}`, token)
		case req.URL.Path == "/token":
			w.WriteHeader(http.StatusUnauthorized)
		case bearer == "Bearer writer", bearer == "Bearer reader" && req.Method == http.MethodGet:
			next.ServeHTTP(w, req)
		default:
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, reg.Host))
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	return given
}

func TestTokenService(t *testing.T) {
	reg, r := start(t)
	data := noise(1000)
	d := upload(t, r, data)
	given := tokens(reg, true)

	anonymous, err := Open(t.Context(), r.Name(), Options{})
	require.NoError(t, err)
	got, err := io.ReadAll(anonymous.Blob(t.Context(), d))
	require.NoError(t, err)
	require.Equal(t, data, got)
	require.Positive(t, given.Load())
	err = anonymous.Upload(t.Context(), d, opener(data))
	require.ErrorIs(t, err, ErrDenied)
	require.ErrorContains(t, err, "docker login")

	logIn(t, reg.Host, "user", "password")
	known, err := Open(t.Context(), r.Name(), Options{Push: true})
	require.NoError(t, err)
	require.NoError(t, known.Upload(t.Context(), d, opener(data)))

	tokens(reg, false)
	logIn(t, reg.Host, "user", "wrong")
	_, err = Open(t.Context(), r.Name(), Options{})
	require.ErrorIs(t, err, ErrDenied)
}

func TestBasicAndHelper(t *testing.T) {
	reg, r := start(t)
	d := upload(t, r, noise(1000))
	reg.Filter(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if user, password, _ := req.BasicAuth(); user == "user" && password == "secret" {
			next.ServeHTTP(w, req)
			return
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	read := func() error {
		r, err := Open(t.Context(), r.Name(), Options{})
		if err != nil {
			return err
		}
		_, err = io.ReadAll(r.Blob(t.Context(), d))
		return err
	}
	require.ErrorIs(t, read(), ErrDenied)
	logIn(t, reg.Host, "user", "secret")
	require.NoError(t, read())

	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	script := "#!/bin/sh\n" +
		"[ \"$1 $(cat)\" = 'get " + reg.Host + "' ] && exec echo '{\"Username\":\"user\",\"Secret\":\"secret\"}'\n" +
		"echo credentials not found in native keychain; exit 1\n"
	require.NoError(t, os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(script), 0o700))
	writeConfig(t, fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, reg.Host))
	require.NoError(t, read())
	writeConfig(t, `{`)
	require.ErrorContains(t, read(), "find the credentials")
}

// TestRedirectGetsNoCredentials: where a blob lies elsewhere, that place learns
// neither the token nor the password.
func TestRedirectGetsNoCredentials(t *testing.T) {
	reg, r := start(t)
	data := noise(1000)
	d := upload(t, r, data)
	for kind, challenge := range map[string]string{"Bearer": "", "Basic": `Basic realm="test"`} {
		t.Run(kind, func(t *testing.T) {
			where, asked := other(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) })
			logIn(t, reg.Host, "user", "password")
			tokens(reg, false)
			inner := reg.ServeHTTP
			if challenge != "" {
				inner = func(w http.ResponseWriter, req *http.Request) {
					if _, _, ok := req.BasicAuth(); !ok {
						w.Header().Set("WWW-Authenticate", challenge)
						w.WriteHeader(http.StatusUnauthorized)
						return
					}
					w.WriteHeader(http.StatusOK)
				}
			}
			redirected := 0
			front := redirecting(t, inner, where, &redirected)
			logIn(t, front, "user", "password")
			repo, err := Open(t.Context(), front+"/me/x", Options{})
			require.NoError(t, err)
			got, err := io.ReadAll(repo.Blob(t.Context(), d))
			require.NoError(t, err)
			require.Equal(t, data, got)
			require.Equal(t, 1, redirected, "the registry did get its credentials")
			require.Len(t, *asked, 1)
			require.Empty(t, (*asked)[0].Values("Authorization"))
			require.Empty(t, (*asked)[0].Values("Cookie"))
		})
	}
}

// redirecting is a registry that wants credentials, answers like inner, but has its
// blobs elsewhere. count is of the redirects of requests with credentials.
func redirecting(t *testing.T, inner http.HandlerFunc, where string, count *int) (host string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case isBlobRequest(req) && req.Header.Get("Authorization") != "":
			*count++
			http.Redirect(w, req, "http://"+where+"/elsewhere", http.StatusTemporaryRedirect)
		case req.URL.Path == "/v2/" && req.Header.Get("Authorization") == "" && w.Header().Get("WWW-Authenticate") == "":
			rec := httptest.NewRecorder()
			inner(rec, req)
			challenge := rec.Header().Get("WWW-Authenticate")
			if i := strings.Index(challenge, `realm="http://`); i >= 0 { // its own token service
				challenge = `Bearer realm="http://` + req.Host + `/token",service="test"`
			}
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(rec.Code)
		default:
			inner(w, req)
		}
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// TestRedirectOfAPushGetsNoCredentials: uploads go to another host, too.
func TestRedirectOfAPushGetsNoCredentials(t *testing.T) {
	reg, r := start(t)
	data := noise(1000)
	var stored []byte
	where, asked := other(t, func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		stored = append(stored, body...)
		w.WriteHeader(map[string]int{http.MethodPatch: http.StatusAccepted, http.MethodPut: http.StatusCreated}[req.Method])
	})
	logIn(t, reg.Host, "user", "password")
	tokens(reg, false)
	repo, err := Open(t.Context(), r.Name(), Options{Push: true})
	require.NoError(t, err)
	reg.Filter(func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
		require.Equal(t, "Bearer writer", req.Header.Get("Authorization"))
		w.Header().Set("Location", "http://"+where+"/upload?state=1")
		w.WriteHeader(http.StatusAccepted)
	})
	require.NoError(t, repo.Upload(t.Context(), describe("", data), opener(data)))
	require.Equal(t, data, stored)
	require.Len(t, *asked, 2)
	for _, header := range *asked {
		require.Empty(t, header.Values("Authorization"))
	}
}

// TestRedirectOfALoginIsRefused: a token service that sends the exchange of a token,
// which is in the request's body, to another host.
func TestRedirectOfALoginIsRefused(t *testing.T) {
	reg, r := start(t)
	where, asked := other(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"access_token":"x"}`) })
	writeConfig(t, fmt.Sprintf(`{"auths":{%q:{"auth":"PHRva2VuPjp4","identitytoken":"secret"}}}`, reg.Host))
	target, forms := reg.Host, 0
	reg.Filter(func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
		switch req.URL.Path {
		case "/token":
			require.Equal(t, "secret", req.FormValue("refresh_token"))
			forms++
			http.Redirect(w, req, "http://"+target+"/elsewhere", http.StatusTemporaryRedirect)
		case "/elsewhere":
			_, _ = io.WriteString(w, `{"access_token":"x"}`)
		default:
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, reg.Host))
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	_, err := Open(t.Context(), r.Name(), Options{})
	require.NoError(t, err, "to the same host it may go")
	target = strings.Replace(where, "127.0.0.1", "localhost", 1) // the library refuses an address
	_, err = Open(t.Context(), r.Name(), Options{})
	require.ErrorIs(t, err, errRedirect)
	require.Equal(t, 2, forms)
	require.Empty(t, *asked)
}

func TestPlainHTTPIsForLoopback(t *testing.T) {
	noCredentials(t)
	sent := 0
	t.Cleanup(func() { require.Zero(t, sent, "nothing leaves this machine") })
	refuse := roundTripper(func(*http.Request) (*http.Response, error) { sent++; return nil, io.EOF })
	for _, host := range []string{"192.168.0.1", "10.0.0.1:5000", "printer.local", "example.org", "[fe80::1]"} {
		req := httptest.NewRequest(http.MethodGet, "http://"+host+"/v2/", nil)
		_, err := guard{refuse, false}.RoundTrip(req)
		require.ErrorIs(t, err, errPlain, host)
		require.ErrorContains(t, err, "--tls-verify=false", host)
	}
	passed := 0
	pass := roundTripper(func(*http.Request) (*http.Response, error) { passed++; return nil, io.EOF })
	for _, c := range []struct {
		url   string
		plain bool
	}{{"http://127.0.0.1:5000", false}, {"http://localhost:5000", false}, {"http://[::1]:5000", false}, {"https://example.org", false}, {"http://example.org", true}} {
		_, err := guard{pass, c.plain}.RoundTrip(httptest.NewRequest(http.MethodGet, c.url, nil))
		require.ErrorIs(t, err, io.EOF, c.url)
	}
	require.Equal(t, 5, passed)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestRefusedRedirects(t *testing.T) {
	request := func(url string) *http.Request { return httptest.NewRequest(http.MethodGet, url, nil) }
	far := []*http.Request{request("https://registry.example.org/v2/")}
	require.NoError(t, checkRedirect(request("https://cdn.example.org/"), far))
	require.NoError(t, checkRedirect(request("https://10.0.0.1/"), far), "a store beside a registry of one's own")
	require.NoError(t, checkRedirect(request("http://127.0.0.1:2/"), []*http.Request{request("http://127.0.0.1:1/")}))
	for _, to := range []string{"http://169.254.169.254/", "http://127.0.0.1:1/", "http://localhost/", "http://[::1]/", "http://[fe80::1]/"} {
		require.ErrorIs(t, checkRedirect(request(to), far), errRedirect, to)
	}
	require.ErrorIs(t, checkRedirect(request("https://registry.example.org/"), make10(far[0])), errRedirect)
}

func make10(req *http.Request) []*http.Request {
	var list []*http.Request
	for range 10 {
		list = append(list, req)
	}
	return list
}

func TestTLS(t *testing.T) {
	noCredentials(t)
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ErrorLog = nil
	t.Cleanup(server.Close)
	// The name is not loopback's, so that nothing falls back to plain HTTP.
	host := strings.Replace(server.Listener.Addr().String(), "127.0.0.1", "127.0.0.2", 1)
	_, err := Open(t.Context(), host+"/x/y", Options{})
	require.ErrorIs(t, err, ErrUnreachable)
	_, err = Open(t.Context(), server.Listener.Addr().String()+"/x/y", Options{Insecure: true})
	require.NoError(t, err)
}

func TestUnreachable(t *testing.T) {
	noCredentials(t)
	server := httptest.NewServer(http.NotFoundHandler())
	host := server.Listener.Addr().String()
	server.Close()
	_, err := Open(t.Context(), host+"/x/y", Options{})
	require.ErrorIs(t, err, ErrUnreachable)
	require.ErrorContains(t, err, host)
	require.NotContains(t, err.Error(), "/v2/", "people did not ask for an address")
}
