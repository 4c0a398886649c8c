package trial

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/internal/layout"
)

// state is what can change while the machine is waited for.
type state struct {
	boot          string // id
	root          string // root hash
	good          bool   // the boot loader does not count the version, or no longer
	upgradeFailed bool   // in this boot, and not by its end
}

const stateScript = `cat /proc/sys/kernel/random/boot_id
sed 's/.*roothash=\([0-9a-f]*\).*/\1/' /proc/cmdline
systemctl is-active systemd-bless-boot.service
if [ "$(systemctl is-system-running)" = stopping ]; then echo stopping; else systemctl is-failed runner-upgrade; fi
true`

func (t *trial) state(ctx context.Context) (state, error) {
	out, err := t.sh(ctx, stateScript)
	if err != nil {
		return state{}, err
	}
	lines := strings.Split(out, "\n")
	if len(lines) != 4 {
		return state{}, fmt.Errorf("cannot read the state of the machine: %.200q", out)
	}
	return state{boot: lines[0], root: lines[1], good: lines[2] == "active", upgradeFailed: lines[3] == "failed"}, nil
}

// await looks at the machine until done, which gets each state.
func (t *trial) await(ctx context.Context, what string, done func(state) (bool, error)) error {
	return t.poll(ctx, what, func() (bool, error) {
		s, err := t.state(ctx)
		if err != nil {
			return false, err
		}
		ok, err := done(s)
		if err != nil {
			return false, &finalError{err}
		}
		return ok, nil
	})
}

// until waits until a script succeeds.
func (t *trial) until(ctx context.Context, what, script string) error {
	return t.poll(ctx, what, func() (bool, error) {
		_, err := t.sh(ctx, script)
		return err == nil, err
	})
}

// finalError is an error that waiting does not change.
type finalError struct{ error }

func (e *finalError) Unwrap() error { return e.error }

// poll asks until the answer is yes, or an error that will not pass. The machine does
// not answer while it reboots.
func (t *trial) poll(ctx context.Context, what string, ask func() (bool, error)) error {
	for {
		ok, err := ask()
		if ok {
			return nil
		}
		if final := (*finalError)(nil); errors.As(err, &final) || errors.Is(err, errHostKey) {
			return err
		}
		select {
		case <-t.ended:
			return fmt.Errorf("the machine was switched off before %s", what)
		case <-ctx.Done():
			return fmt.Errorf("cannot wait until %s: %w; the last answer was: %w", what, context.Cause(ctx), err)
		case <-time.After(t.pause):
		}
	}
}

// identity is what an appliance is to others, and what it must keep, as lines of a name
// and a value.
type identity []string

const identityScript = `echo "machine-id $(cat /etc/machine-id)"
echo "host name $(hostname)"
echo "config.env $(sha256sum <` + layout.ConfigFile + `)"
echo "file below /var $(cat ` + markerPath + `)"
echo "registration $(cat ` + layout.Registered + ` 2>/dev/null | sha256sum)"
echo "ssh host keys $(cat /var/lib/runner/host/ssh_host_*_key 2>/dev/null | sha256sum)"`

func (t *trial) identity(ctx context.Context) (identity, error) {
	out, err := t.sh(ctx, identityScript)
	return strings.Split(out, "\n"), err
}

// needGitHub are the units that cannot succeed without a registration.
var needGitHub = []string{"runner-install.service", "runner.service"}

// compare checks that the appliance is the one it was, and that its units work.
func (t *trial) compare(ctx context.Context) (string, error) {
	now, err := t.identity(ctx)
	if err != nil {
		return "", err
	}
	var errs []error
	for i, line := range t.before {
		if i >= len(now) || now[i] != line {
			errs = append(errs, fmt.Errorf("was not kept: %s; the appliance now has\n%s", line, strings.Join(now, "\n")))
		}
	}

	failed, err := t.sh(ctx, "systemctl list-units --state=failed --no-legend --plain | cut -d ' ' -f 1")
	if err != nil {
		return "", err
	}
	for _, unit := range strings.Fields(failed) {
		if t.Registers || !slices.Contains(needGitHub, unit) {
			errs = append(errs, t.journalError(ctx, unit+" failed", "-b -u "+unit))
		}
	}
	return fmt.Sprintf("%d things kept", len(t.before)), errors.Join(errs...)
}
