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
// a query passes by the service's name, and by its mapped port from a step
// without a container.
func TestPostgres(t *testing.T) {
	tree := os.Getenv("MKAPPLIANCE_TEST_POSTGRES")
	if tree == "" {
		t.Skip("MKAPPLIANCE_TEST_POSTGRES names no tree with PostgreSQL: run it through 'make test'")
	}
	l := newLab(t, "RUNNER_NSPAWN_BIND_RO="+tree+":"+postgresInGuest)
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

	l.serveGitHub()
	l.inBoth(func(l *lab) {
		l.queryByName(server, client)
		r.Requests()
		l.queryByPort(server, tree)
		for _, request := range r.Requests() {
			if strings.HasPrefix(request, "GET ") && strings.Contains(request, "/blobs/") {
				l.Errorf("the image is in the store, yet the second job asked for %s", request)
			}
		}
		l.noResidue()
	})
}

// postgresInGuest is where guests see the tree with PostgreSQL.
const postgresInGuest = "/postgres"

// postgresService returns a service from the image of a server, with the
// environment of its clients.
func postgresService(server string) (miniworker.Container, map[string]string) {
	return miniworker.Container{Key: "db", Image: server, Ports: []string{"15432:5432"},
		Env: map[string]string{"POSTGRES_USER": "app", "POSTGRES_PASSWORD": "of-the-database", "POSTGRES_DB": "shop"},
		Options: `--health-cmd "pg_isready -h 127.0.0.1 -U app -d shop" ` +
			"--health-interval 1s --health-timeout 5s --health-retries 60",
		// A notice, on standard error, comes before or after the answer.
	}, map[string]string{"PGPASSWORD": "of-the-database", "PGOPTIONS": "-c client_min_messages=warning"}
}

const (
	postgresQuery = ` -U app -d shop --no-align --tuples-only -c "create table if not exists t (n int); ` +
		`insert into t values (6); select current_database(), min(n) * 7 from t"`
	postgresAnswer = "CREATE TABLE\nINSERT 0 1\nshop|42"
)

func (l *lab) queryByName(server, client string) {
	service, env := postgresService(server)
	job := miniworker.Job{Name: "name", Container: &miniworker.Container{Image: client},
		Services: []miniworker.Container{service},
		Steps:    []miniworker.Step{{Name: "image", Run: "psql -h postgres" + postgresQuery, Env: env}}}
	said := map[string]string{"image": postgresAnswer}
	if l.place == inGuest {
		job.Steps = append(job.Steps, miniworker.Step{Name: "key", Run: "psql -h db" + postgresQuery, Env: env})
		said["key"] = postgresAnswer
	}
	result := l.job(job)
	l.said(result, said)
	if answered := l.response(result).Context.Services[0].Ports["5432"]; answered != "15432" {
		l.Errorf("port 5432 is reported at %q", answered)
	}
}

// queryByPort uses the client of a tree with its own libraries, in steps without a
// container.
func (l *lab) queryByPort(server, tree string) {
	psql, err := filepath.Glob(filepath.Join(tree, "usr/lib/postgresql/*/bin/psql"))
	if err != nil || len(psql) != 1 {
		l.Fatalf("psql is %q, %v", psql, err)
	}
	root, addresses := tree, []string{"-h 127.0.0.1 -p 15432"}
	if l.place == inGuest {
		root = postgresInGuest
		addresses = append(addresses, "-h ::1 -p 15432", "-h localhost -p 15432", "-h db -p 5432")
	}
	libraries := root + "/usr/lib/x86_64-linux-gnu"
	l.programs = []string{libraries + "/ld-linux-x86-64.so.2"}

	service, env := postgresService(server)
	job := miniworker.Job{Name: "port", Services: []miniworker.Container{service}}
	said := map[string]string{}
	for _, address := range addresses {
		job.Steps = append(job.Steps, miniworker.Step{Name: address, Env: env,
			Run: fmt.Sprintf("%[1]s/ld-linux-x86-64.so.2 --library-path %[1]s %[2]s%[3]s %[4]s%[5]s",
				libraries, root, strings.TrimPrefix(psql[0], tree), address, postgresQuery)})
		said[address] = postgresAnswer
	}
	l.said(l.job(job), said)
}
