package actionsrunner

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/golden"
)

// answer has the fields that GitHub's API returns and that this package reads.
const answer = `{"tag_name": "v2.338.0", "prerelease": false, "published_at": "2026-11-20T10:00:00Z",
 "assets": [
  {"name": "actions-runner-linux-arm64-2.338.0.tar.gz", "digest": null, "browser_download_url": "https://x.test/b"},
  {"name": "actions-runner-linux-x64-2.338.0.tar.gz", "digest": "sha256:SUM",
   "size": 5, "browser_download_url": "https://x.test/a"}
]}`

func TestNewest(t *testing.T) {
	sum := strings.Repeat("0f", 32)
	good := strings.Replace(answer, "SUM", sum, 1)
	messages := golden.NewMessages(t, "errors.golden")
	for _, test := range []struct {
		summary  string
		status   int
		old, new string
		arch     arch.Arch
		good     bool
	}{
		{summary: "good", status: 200, good: true},
		{summary: "no digest", status: 200, arch: arch.ARM64()},
		{summary: "no such file", status: 200, old: "linux-x64", new: "win-x64"},
		{summary: "short digest", status: 200, old: sum, new: "0f"},
		{summary: "plain http", status: 200, old: "https://x.test/a\"", new: "http://x.test/a\""},
		{summary: "preview", status: 200, old: "v2.338.0", new: "v3.0.0-rc1"},
		{summary: "not JSON", status: 200, old: "{", new: "<"},
		{summary: "too large", status: 200, old: "{", new: "{" + strings.Repeat(" ", MaxAnswer)},
		{summary: "not found", status: 404},
		{summary: "rate limit", status: 403},
	} {
		t.Run(test.summary, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/repos/actions/runner/releases/latest" || r.Header.Get("Authorization") != "Bearer token" {
					t.Errorf("got %s with %q", r.URL, r.Header)
				}
				w.WriteHeader(test.status)
				fmt.Fprint(w, strings.Replace(good, test.old, test.new, 1))
			}))
			defer server.Close()
			if test.arch.Debian == "" {
				test.arch = arch.AMD64()
			}

			var archive *Archive
			r, err := Newest(t.Context(), server.URL+"/", "token")
			if err == nil {
				archive, err = r.Archive(test.arch)
			}
			if !test.good {
				if err == nil {
					t.Fatal("accepted")
				}
				messages.Check(t, test.summary, strings.ReplaceAll(err.Error(), server.URL, "API"))
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&Archive{URL: "https://x.test/a", SHA256: sum, Size: 5}, archive); diff != "" {
				t.Errorf("got (+), want (-):\n%s", diff)
			}
			published := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
			if r.Version != "2.338.0" || !r.Published.Equal(published) {
				t.Errorf("got version %s of %s", r.Version, r.Published)
			}
		})
	}
}
