package dockeropts

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/internal/golden"
)

// TestReviewed parses the options that Docker took and we did not, when both ran the
// same 355 cases: each has the id it had there. testdata/reviewed.golden says for
// each whether it now has its effect, a notice of what it means here, or a reason why
// not.
func TestReviewed(t *testing.T) {
	var got strings.Builder
	for _, row := range []struct{ id, line string }{
		{"O008", "--privileged"},
		{"O016", "-v /var/run/docker.sock:/var/run/docker.sock"},
		{"O017", "-v /srv/hostdir:/hostdir"},
		{"O018", "--volume /srv/hostdir:/hostdir:ro"},
		{"O019", "--mount type=tmpfs,destination=/fast"},
		{"O020", "--mount type=volume,source=vol,target=/vol"},
		{"O021", "--mount type=bind,source=/srv/hostdir,target=/hostdir"},
		{"O025", "--add-host=host.docker.internal:host-gateway"},
		{"O026", "--ulimit nofile=65536:65536"},
		{"O027", "--ulimit memlock=-1"},
		{"O028", "--ulimit core=0"},
		{"O029", "--security-opt seccomp=unconfined"},
		{"O030", "--security-opt=apparmor:unconfined"},
		{"O031", "--security-opt no-new-privileges"},
		{"O032", "--security-opt label=disable"},
		{"O036", "--cap-add ALL"},
		{"O037", "--cap-add IPC_LOCK"},
		{"O039", "--cap-add SYSLOG"},
		{"O040", "--cap-add SYS_TIME"},
		{"O041", "--cap-add PERFMON"},
		{"O042", "--cap-add BPF"},
		{"O044", "--dns 192.0.2.53"},
		{"O045", "--dns-search example.test"},
		{"O046", "--sysctl net.core.somaxconn=1024"},
		{"O047", "--sysctl net.ipv6.conf.all.disable_ipv6=0"},
		{"O048", "--platform linux"}, // and the architecture, see TestPlatforms
		{"O050", "--ipc=host"},
		{"O051", "--ipc host"},
		{"O052", "--ipc=private"},
		{"O055", "--pid=host"},
		{"O056", "--uts=host"},
		{"O057", "--userns=host"},
		{"O058", "--cgroupns=host"},
		{"O059", "--read-only"},
		{"O061", "--memory 2g --memory-swap 2g"},
		{"O062", "--memory-swap=-1 --memory=2g"},
		{"O063", "--memory-reservation 1g"},
		{"O064", "--memory-swappiness 0"},
		{"O065", "--cpu-shares 512"},
		{"O066", "--cpuset-cpus 0"},
		{"O067", "--cpu-quota 50000 --cpu-period 100000"},
		{"O068", "--oom-score-adj 500"},
		{"O068b", "--oom-score-adj 100"},
		{"O071", "--domainname example.test"},
		{"O073", "--label a=b"},
		{"O074", "-l a=b"},
		{"O075", "--log-driver none"},
		{"O076", "--log-opt max-size=10m"},
		{"O077", "--pull always"},
		{"O078", "--restart always"},
		{"O079", "--restart=unless-stopped"},
		{"O080", "--tty"},
		{"O081", "-it"},
		{"O082", "-i"},
		{"O083", "-t"},
		{"O084", "--interactive"},
		{"O085", "--device /dev/fuse"},
		{"O086", "--device=/dev/net/tun"},
		{"O087", "--device /dev/kvm"},
		{"O088", "--group-add 1234"},
		{"O089", "--stop-timeout 1"},
		{"O090", "--stop-signal SIGKILL"},
		{"O091", "--expose 8080"},
		{"O092", "-p 18080:80"},
		{"O093", "-p 127.0.0.1:18081:80"},
		{"O094", "--publish 18082:80"},
		{"O097", "--env FOO"},
		{"O098", "--env-file /dev/null"},
		{"O100", "--tmpfs /tmpfs:rw,exec,uid=1000,gid=1000"},
		{"O106", "--mac-address 02:42:ac:11:00:02"},
		{"O109", "--isolation default"},
		{"O111", "--blkio-weight 500"},
		{"O112", "--link none"},
		{"O114", "--runtime=runc"},
		{"O115", "--cpus 2 --memory 4g \\\n --init"},
		{"V04", "--health-cmd pg_isready \\\n--health-interval 10s \\\n--health-retries 5"},
		{"V56", "-e discovery.type=single-node --ulimit memlock=-1:-1"},
		{"V57", "--health-cmd=\"mysqladmin ping\" --cap-add SYS_NICE --security-opt seccomp=unconfined"},
	} {
		o, err := Parse(row.line)
		verdict := "taken"
		if err != nil {
			verdict = "refused: " + err.Error()
		} else if len(o.Notices) > 0 {
			verdict = "notice: " + strings.Join(o.Notices, "; ")
		}
		fmt.Fprintf(&got, "%-5s %q\n      %s\n", row.id, row.line, verdict)
	}
	golden.Check(t, "reviewed.golden", got.String())
}

// TestPlatforms has rows O048 and O049.
func TestPlatforms(t *testing.T) {
	for _, test := range []struct {
		architecture string
		takes        []string
		refuses      []string
	}{
		{"amd64", []string{"linux/amd64", "amd64", "linux/x86_64", "Linux/AMD64"}, []string{"linux/arm64", "linux/386", ""}},
		{"arm64", []string{"linux/arm64", "linux/arm64/v8", "linux/aarch64"}, []string{"linux/amd64", "linux/arm/v7"}},
	} {
		take := oneOf("no", platforms(test.architecture)...)
		for _, p := range test.takes {
			if err := take(p); err != nil {
				t.Errorf("%s: %v", test.architecture, err)
			}
		}
		for _, p := range test.refuses {
			if err := take(p); err == nil {
				t.Errorf("%s takes %s", test.architecture, errors.New(p))
			}
		}
	}
}
