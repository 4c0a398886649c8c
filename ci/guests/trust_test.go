package guests

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mkappliance/mkappliance/ci/authority"
)

// TestTrust: programs of a guest, each with its own way to the authorities,
// trust a server with a certificate of RUNNER_CA_CERTS, and no other.
func TestTrust(t *testing.T) {
	// config.env may not name a file beneath /tmp, where the lab is.
	dir, err := os.MkdirTemp("/var/tmp", "trust")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ours, err := authority.New("ours")
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := authority.New("a stranger")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(file, ours.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}

	l := newLab(t, "RUNNER_CA_CERTS="+file)
	job := l.prepare()
	defer l.cleanup(job)
	l.serveTLS(job, "4433", ours)
	l.serveTLS(job, "4434", stranger)
	for _, client := range []struct{ summary, script string }{
		{summary: "curl", script: `curl -sS https://localhost:$port/ >/dev/null`},
		{summary: "openssl", script: `openssl s_client -brief -verify_return_error -connect localhost:$port </dev/null`},
		{summary: "wget", script: `wget -qO /dev/null https://localhost:$port/`},
		{summary: "git", script: `git ls-remote https://localhost:$port/ 2>&1 | grep -v certificate`},
		{summary: "python", script: `python3 -c "import urllib.request as r; r.urlopen('https://localhost:$port/')"`},
		{summary: "node", script: `node -e "require('https').get('https://localhost:$port/', r => process.exit(0))"`},
	} {
		if status, out := l.sh(job, "port=4433; "+client.script); status != 0 {
			l.Errorf("%s does not trust our authority: %s", client.summary, out)
		}
		if status, _ := l.sh(job, "port=4434; "+client.script); status == 0 {
			l.Errorf("%s trusts a stranger", client.summary)
		}
	}

	// Debian's own tool, which a job may run, does not drop them.
	if status, out := l.sh(job, "update-ca-certificates --fresh >/dev/null 2>&1 && "+
		"curl -sS https://localhost:4433/ >/dev/null"); status != 0 {
		l.Errorf("update-ca-certificates drops the authority: %s", out)
	}
}

// serveTLS starts a server for localhost in a job's guest.
func (l *lab) serveTLS(job, port string, a *authority.Authority) {
	l.Helper()
	cert, key, err := a.Issue("localhost")
	if err != nil {
		l.Fatal(err)
	}
	name := "server-" + port + ".pem"
	if err := os.WriteFile(l.path("work/"+name), append(cert, key...), 0o644); err != nil {
		l.Fatal(err)
	}
	status, out := l.sh(job, "setsid openssl s_server -quiet -www -accept "+port+" -cert /__w/"+name+
		" -key /__w/"+name+" </dev/null >/dev/null 2>&1 &\n"+
		"for _ in $(seq 100); do curl -sko /dev/null https://localhost:"+port+"/ && exit; sleep 0.1; done; exit 1")
	if status != 0 {
		l.Fatalf("no server on port %s: %s", port, out)
	}
}
