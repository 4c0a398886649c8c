package upgrade

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/golden"
)

// TestServers compares the messages about servers without a channel with
// testdata/servers.txt.
func TestServers(t *testing.T) {
	var messages strings.Builder
	for _, test := range []struct {
		summary string
		handler http.HandlerFunc
	}{
		{"404", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }},
		{"403", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }},
		{"500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }},
		{"unknown status", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(299) }},
		{"HTML", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>Please log in</html>") }},
		{"reset", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		{"silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"slow", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte("x"))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		}},
		{"redirect loop", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path+"x", http.StatusFound)
		}},
		{"redirect to a file", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t)
			server := httptest.NewServer(test.handler)
			defer server.Close()
			l.u.Source, l.grace = server.URL, 100*time.Millisecond

			before := l.diskHash()
			_, err := l.upgrade(t.Context(), "")
			if err == nil {
				t.Fatal("it succeeded")
			}
			text := strings.ReplaceAll(err.Error(), server.URL, "URL")
			// The ports differ.
			text = strings.ReplaceAll(text, server.Listener.Addr().(*net.TCPAddr).String(), "ADDRESS")
			fmt.Fprintf(&messages, "%s\n  %s\n", test.summary, text)
			if l.diskHash() != before {
				t.Error("the disk was written")
			}
		})
	}
	golden.Check(t, "servers.txt", messages.String())
}

// TestServersOfRoot: a server that fails with the root file system alone is noticed
// before the slot is touched.
func TestServersOfRoot(t *testing.T) {
	for _, test := range []struct {
		summary, want string
		answer        http.HandlerFunc
	}{
		{summary: "404", want: "the server answered 404 Not Found",
			answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }},
		{summary: "another size", want: `the server sent "bytes 0-0/7", asked for "bytes 0-0/1720320"`,
			answer: func(w http.ResponseWriter, r *http.Request) {
				http.ServeContent(w, r, "", time.Time{}, strings.NewReader("content"))
			}},
		{summary: "reset", want: "EOF", answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
	} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t)
			l.publish(nil, newVersion(t, "1.1.0", join(noise(2, 20), l.running.root)))
			files := http.FileServer(http.Dir(l.dir))
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, ".root") {
					test.answer(w, r)
					return
				}
				files.ServeHTTP(w, r)
			}))
			defer server.Close()
			l.u.Source = server.URL

			before, names := l.diskHash(), l.names()
			_, err := l.upgrade(t.Context(), "")
			if want := "cannot read runner-amd64_1.1.0.root of " + server.URL + ": " + test.want; fmt.Sprint(err) != want {
				t.Errorf("got %v, want %s", err, want)
			}
			if l.diskHash() != before || fmt.Sprint(names) != fmt.Sprint(l.names()) {
				t.Error("the disk or the ESP was written")
			}
		})
	}
}

// TestNoDowngradeOfTransport: a redirect must not leave https.
func TestNoDowngradeOfTransport(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL, http.StatusFound)
	}))
	defer secure.Close()

	c := newHTTPChannel(secure.URL + "/")
	c.client.Transport = secure.Client().Transport
	_, err := c.open(t.Context(), "", "index.json", span{0, 10}, -1)
	if err == nil || err.Error() != "redirect from https to http" {
		t.Errorf("got %v", err)
	}
}

// TestCertificates: messages name the fix.
func TestCertificates(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	c := newHTTPChannel(server.URL + "/")
	_, err := c.open(t.Context(), "", "index.json", span{0, 10}, -1)
	if err == nil || !strings.Contains(err.Error(), "name the file of its authority in RUNNER_CA_CERTS") {
		t.Errorf("unknown authority: got %v", err)
	}

	transport := server.Client().Transport.(*http.Transport).Clone()
	c.client.Transport = transport
	for _, clock := range []struct {
		summary string
		year    int
		want    string
	}{
		{summary: "clock behind", year: 1960, want: "current time 1960-01-01T00:00:00Z is before 1970-01-01T00:00:00Z"},
		{summary: "clock ahead", year: 2100, want: "current time 2100-01-01T00:00:00Z is after 2084-01-29T16:00:00Z"},
	} {
		transport.TLSClientConfig.Time = func() time.Time { return time.Date(clock.year, 1, 1, 0, 0, 0, 0, time.UTC) }
		_, err = c.open(t.Context(), "", "index.json", span{0, 10}, -1)
		want := "the server's certificate is not valid at the time of this appliance's clock (" + clock.want +
			"); let NTP reach a time server (timedatectl shows the state)"
		if fmt.Sprint(err) != want {
			t.Errorf("%s: got %v", clock.summary, err)
		}
	}
}

// TestStick installs from a directory that has another name in messages, and does
// not wait for the writer of a FIFO.
func TestStick(t *testing.T) {
	l := newLab(t)
	next := newVersion(t, "1.1.0", join(noise(2, 20), l.running.root))
	l.publish(nil, next)
	l.u.Source, l.u.Root = "/dev/sdb1", l.dir
	index := filepath.Join(l.dir, "index.json")
	if err := errors.Join(os.Rename(index, index+".old"), unix.Mkfifo(index, 0o600)); err != nil {
		t.Fatal(err)
	}
	_, err := l.upgrade(t.Context(), "")
	if want := "cannot read index.json of /dev/sdb1: index.json is not a file"; fmt.Sprint(err) != want {
		t.Errorf("got %v", err)
	}

	if err := os.Rename(index+".old", index); err != nil {
		t.Fatal(err)
	}
	if o, err := l.upgrade(t.Context(), ""); err != nil || !o.Installed {
		t.Errorf("got %+v, %v", o, err)
	}
}

// TestSources: the first source with a version to install is taken, in spite of
// what those before it are.
func TestSources(t *testing.T) {
	for _, test := range []struct {
		summary   string
		first     string // what is there: old, new, foreign or nothing
		want      string // the source that is installed from
		wantInLog string
	}{
		{summary: "a version", first: "new", want: "stick"},
		{summary: "the running version", first: "old", want: "network"},
		{summary: "no channel", first: "nothing", want: "network",
			wantInLog: "nothing is installed from stick: cannot read index.json.minisig of stick: no such file or directory\n"},
		{summary: "another publisher's", first: "foreign", want: "network",
			wantInLog: "nothing is installed from stick: refused: index.json: signed with an unknown key, "},
	} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t)
			network, stick, key := l.dir, t.TempDir(), l.key
			next := newVersion(t, "1.1.0", join(noise(2, 20), l.running.root))
			l.publish(nil, next)
			l.dir = stick
			switch test.first {
			case "new":
				l.publish(nil, newVersion(t, "1.2.0", join(noise(3, 20), l.running.root)))
			case "old":
				l.publish(nil, l.running)
			case "foreign":
				_, l.key, _ = minisign.GenerateKey(rand.Reader)
				l.publish(nil, newVersion(t, "1.2.0", join(noise(3, 20), l.running.root)))
				l.key = key
			}

			o, err := l.u.RunFirst(t.Context(), l, []Place{{Name: "stick", Root: stick}, {Name: network}}, "", false)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"stick": "1.2.0", "network": "1.1.0"}[test.want]
			if o.Version != want || !o.Installed {
				t.Errorf("got %+v, want version %s", o, want)
			}
			if !strings.Contains(l.log.String(), test.wantInLog) ||
				test.wantInLog == "" && strings.Contains(l.log.String(), "nothing is installed") {
				t.Errorf("the log is %q", l.log.String())
			}
		})
	}
}
