package seccomp

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestProgram(t *testing.T) {
	const eperm = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	calls := []uint32{unix.SYS_MOUNT, unix.SYS_SETNS, unix.SYS_BPF}
	many := make([]uint32, 250)
	for i := range many {
		many[i] = uint32(1000 + i)
	}
	forbid := Filter{Calls: calls, Action: eperm, Foreign: unix.SECCOMP_RET_KILL_PROCESS, X32: eperm}
	const pass = unix.SECCOMP_RET_ALLOW
	ignore := Filter{Calls: many, Action: unix.SECCOMP_RET_ERRNO, Foreign: pass, X32: pass}

	for _, test := range []struct {
		summary    string
		filter     Filter
		arch, call uint32
		want       uint32
	}{
		{summary: "the first", filter: forbid, arch: auditArch(), call: unix.SYS_MOUNT, want: eperm},
		{summary: "one between", filter: forbid, arch: auditArch(), call: unix.SYS_SETNS, want: eperm},
		{summary: "the last", filter: forbid, arch: auditArch(), call: unix.SYS_BPF, want: eperm},
		{summary: "another", filter: forbid, arch: auditArch(), call: unix.SYS_READ, want: pass},
		{summary: "x32", filter: forbid, arch: auditArch(), call: firstX32 | unix.SYS_READ, want: eperm},
		{
			summary: "another architecture", filter: forbid, arch: unix.AUDIT_ARCH_I386, call: unix.SYS_READ,
			want: unix.SECCOMP_RET_KILL_PROCESS,
		},
		{summary: "the first of many", filter: ignore, arch: auditArch(), call: many[0], want: unix.SECCOMP_RET_ERRNO},
		{summary: "the last of many", filter: ignore, arch: auditArch(), call: many[249], want: unix.SECCOMP_RET_ERRNO},
		{summary: "x32 passes", filter: ignore, arch: auditArch(), call: firstX32 | many[0], want: pass},
		{summary: "a foreign one passes", filter: ignore, arch: unix.AUDIT_ARCH_I386, call: many[0], want: pass},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if got := evaluate(t, test.filter.program(), test.arch, test.call); got != test.want {
				t.Errorf("got %#x, want %#x", got, test.want)
			}
		})
	}
}

// evaluate runs a program of seccomp(2) with what ours use of BPF.
func evaluate(t *testing.T, filter []unix.SockFilter, arch, call uint32) uint32 {
	t.Helper()

	var value uint32
	for i := 0; i < len(filter); i++ {
		f := filter[i]
		var holds bool
		switch f.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			value = map[uint32]uint32{offsetArch: arch, offsetNumber: call}[f.K]
			continue
		case unix.BPF_RET | unix.BPF_K:
			return f.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			holds = value == f.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			holds = value >= f.K
		default:
			t.Fatalf("instruction %d: %+v", i, f)
		}

		if holds {
			i += int(f.Jt)
		} else {
			i += int(f.Jf)
		}
	}
	t.Fatal("the program has no end")
	return 0
}
