package guests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/ci/registry"
)

// TestPostgres is a workflow with a Debian container and a PostgreSQL service:
// a query passes by the service's name, and from the host by its mapped port.
func TestPostgres(t *testing.T) {
	l := newLab(t)
	tree := os.Getenv("MKAPPLIANCE_TEST_POSTGRES")
	if tree == "" {
		t.Skip("MKAPPLIANCE_TEST_POSTGRES names no tree with PostgreSQL: run it through 'make test'")
	}
	r := registry.Serve(l.listen(registryAddr), t.TempDir(), l.dial)
	defer r.Close()
	serverImage, clientImage, err := registry.Postgres(t.Context(), tree, t.TempDir(), "../postgres/entrypoint.sh")
	if err != nil {
		t.Fatal(err)
	}
	server, err := r.Push(t.Context(), "postgres:17", serverImage)
	if err != nil {
		t.Fatal(err)
	}
	client, err := r.Push(t.Context(), "debian-with-psql:13", clientImage)
	if err != nil {
		t.Fatal(err)
	}

	service := miniworker.Container{Image: server, Ports: []string{"15432:5432"},
		Env: map[string]string{"POSTGRES_USER": "app", "POSTGRES_PASSWORD": "of-the-database", "POSTGRES_DB": "shop"},
		Options: `--health-cmd "pg_isready -h 127.0.0.1 -U app -d shop" ` +
			"--health-interval 1s --health-timeout 5s --health-retries 60"}
	password := map[string]string{"PGPASSWORD": "of-the-database"}
	const query = `-U app -d shop --no-align --tuples-only -c "create table if not exists t (n int); ` +
		`insert into t values (6); select current_database(), sum(n) * 7 from t"`
	const answer = "CREATE TABLE\nINSERT 0 1\nshop|42"

	result := l.job(miniworker.Job{Name: "alias", Container: &miniworker.Container{Image: client},
		Services: []miniworker.Container{service},
		Steps:    []miniworker.Step{{Name: "query", Run: "psql -h postgres " + query, Env: password}}})
	l.response(result)
	l.said(result, map[string]string{"query": answer})
	if answered := l.response(result).Context.Services[0].Ports["5432"]; answered != "15432" {
		t.Errorf("port 5432 is reported at %q", answered)
	}

	// The host's own client is that of the tree, with its own libraries.
	psql, err := filepath.Glob(filepath.Join(tree, "usr/lib/postgresql/*/bin/psql"))
	if err != nil || len(psql) != 1 {
		t.Fatalf("psql is %q, %v", psql, err)
	}
	loader := filepath.Join(tree, "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
	l.programs = []string{loader}

	r.Requests()
	result = l.job(miniworker.Job{Name: "port", Services: []miniworker.Container{service},
		Steps: []miniworker.Step{{Name: "query", Env: password,
			Run: fmt.Sprintf("%s --library-path %s/usr/lib/x86_64-linux-gnu %s -h 127.0.0.1 -p 15432 %s",
				loader, tree, psql[0], query)}}})
	l.said(result, map[string]string{"query": answer})
	for _, request := range r.Requests() {
		if strings.HasPrefix(request, "GET ") && strings.Contains(request, "/blobs/") {
			t.Errorf("the image is in the store, yet the second job asked for %s", request)
		}
	}
	l.noResidue()
}
