package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/agent/control"
	"github.com/mkappliance/mkappliance/agent/dist"
	"github.com/mkappliance/mkappliance/agent/supervise"
	"github.com/mkappliance/mkappliance/agent/upgrade"
	"github.com/mkappliance/mkappliance/internal/buildinfo"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/osrelease"
	"github.com/mkappliance/mkappliance/internal/release"
)

// statusTakesNoJobs is the exit status of a runner that is not online or busy.
const statusTakesNoJobs = 3

type statusOptions struct {
	controlDir string
	root       string
	guestBase  string
	workerLogs string
	upgrades   string
	copies     string
	asJSON     bool
}

func newStatusCommand() *cobra.Command {
	var o statusOptions
	c := &cobra.Command{
		Use:   "status [--json]",
		Short: "Print the state of the runner and the versions of its parts",
		Long: `Print the state of the runner, since when it is in it, and the versions of the
actions runner, the image, the guest base and the agent. Every user may ask.

  starting    the listener has no session with GitHub yet, or waits for its next
              start
  online      waits for a job
  busy        runs a job
  draining    the job under way, if any, is the last
  drained     takes no job until runner-agent resume or the next boot
  conflict    another session with this registration is open; tries again
  stopped     runner.service does not run
  deprecated  GitHub no longer serves this version of the actions runner
  removed     the runner is not registered, or no longer

GitHub announces in the output of the actions runner when it stops to serve its
version. Some announcements are only in the logs of workers, which root may read,
and where a job can write one too: nothing but this output depends on them.

With --json the output is an object with the keys "state", "since", "reason",
"job", "job_since", "jobs", "drain" (an object with "since", "deadline",
"cancelled" and "brief"), "runner_version", "runner_from" ("image", "GitHub" or
a source), "runner_published", "runner_age" (in days), "runner_deadline",
"days_left", "image", "image_version", "guest_base", "agent", "upgrade" (an object
with "pending", the version that was installed last, until it has booted well, and
"failed", versions that did not) and "renewal" (an object with "trial", the version
of the actions runner that has not been online yet, and "failed", versions that did
not come online). Those that do not apply are left out.

Exit status:
  0  the runner is online or busy
  1  the state cannot be found out
  2  the command line is wrong
  3  the runner is in another state`,
		Example: `  runner-agent status
  runner-agent status --json | jq -r .state`,
		Args: cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	f := c.Flags()
	f.BoolVar(&o.asJSON, "json", false, "print a JSON object")
	addControlDir(c, &o.controlDir)
	f.StringVar(&o.root, "root", "/", "`DIR` of the system whose versions are printed")
	f.StringVar(&o.guestBase, "guest-base", layout.GuestBase, "`DIR` of the guest base")
	f.StringVar(&o.upgrades, "upgrades", upgrade.DefaultDir, "`DIR` of the state of upgrades")
	f.StringVar(&o.copies, "copies", layout.ActionsRunnerCopies, "`DIR` of newer actions runners")
	f.StringVar(&o.workerLogs, "worker-logs", layout.WorkerLogs, "`DIR` of the logs of workers")
	return c
}

func addControlDir(c *cobra.Command, dir *string) {
	c.Flags().StringVar(dir, "control-dir", control.DefaultDir, "`DIR` in which runner.service takes requests")
}

// report is what status prints.
type report struct {
	control.Status
	RunnerDeadline string `json:"runner_deadline,omitempty"` // a day
	DaysLeft       *int   `json:"days_left,omitempty"`       // until the deadline; negative after it
	// RunnerFrom is where the actions runner is from: "image", "GitHub", or a source.
	RunnerFrom      string `json:"runner_from,omitempty"`
	RunnerPublished string `json:"runner_published,omitempty"` // a day
	RunnerAge       *int   `json:"runner_age,omitempty"`       // days since then
	Image           string `json:"image,omitempty"`
	ImageVersion    string `json:"image_version,omitempty"`
	GuestBase       string `json:"guest_base,omitempty"`
	Agent           string `json:"agent"`

	Upgrade *upgrade.State `json:"upgrade,omitempty"` // nil if there was none
	Renewal *renewal       `json:"renewal,omitempty"` // nil if none is under way or failed
}

// renewal is what is left of renewals of the actions runner.
type renewal struct {
	Trial  *dist.Trial    `json:"trial,omitempty"`  // has not been online yet
	Failed []dist.Failure `json:"failed,omitempty"` // did not come online
}

func (o *statusOptions) run(c *cobra.Command) error {
	client := control.Client{Dir: o.controlDir}
	status, err := client.Status(c.Context())
	if err != nil {
		return err
	}
	now := time.Now()
	r := o.report(status, now)

	if o.asJSON {
		err = json.NewEncoder(c.OutOrStdout()).Encode(r)
	} else {
		err = r.print(c.OutOrStdout(), now)
	}
	if err != nil {
		return err
	}
	if status.State != control.Online && status.State != control.Busy {
		return &cli.StatusError{Status: statusTakesNoJobs, Err: errors.New("the runner takes no jobs"), Quiet: true}
	}
	return nil
}

func (o *statusOptions) report(status control.Status, now time.Time) report {
	image := osrelease.Read(o.root)
	r := report{
		Status: status,
		Image:  image["IMAGE_ID"], ImageVersion: image["IMAGE_VERSION"],
		GuestBase: osrelease.Read(o.guestBase)["PRETTY_NAME"],
		Agent:     buildinfo.Read().Version,
	}
	o.addRunner(&r, image["RUNNER_VERSION"], now)

	// A file that cannot be read is a line less; upgrade itself reports it.
	if s, err := upgrade.LoadState(o.upgrades); err == nil && (s.Pending != nil || s.Failed != nil) {
		r.Upgrade = s
	}

	deadline := status.RunnerDeadline
	if deadline.IsZero() {
		// Only root may read them. It is one line less for others.
		deadline, _ = supervise.FindDeadline(o.workerLogs, r.RunnerVersion, now)
	}
	if !deadline.IsZero() {
		days := daysUntil(deadline, now)
		r.RunnerDeadline, r.DaysLeft = deadline.Format(time.DateOnly), &days
	}
	return r
}

// addRunner adds what is known of the actions runner.
func (o *statusOptions) addRunner(r *report, baked string, now time.Time) {
	s, err := dist.LoadState(o.copies)
	if err != nil {
		s = &dist.State{} // renew itself reports it
	}
	if r.RunnerVersion == "" {
		r.RunnerVersion = baked
		if release.Compare(s.Current, baked) > 0 {
			r.RunnerVersion = s.Current
		}
	}

	c := s.Copy(r.RunnerVersion)
	r.RunnerFrom = c.From
	if r.RunnerVersion == baked && baked != "" {
		r.RunnerFrom = "image"
	}
	if !c.Published.IsZero() {
		age := -daysUntil(c.Published.UTC().Truncate(24*time.Hour), now)
		r.RunnerPublished, r.RunnerAge = c.Published.UTC().Format(time.DateOnly), &age
	}
	if s.Trial != nil || s.Failed != nil {
		r.Renewal = &renewal{s.Trial, s.Failed}
	}
}

// daysUntil returns how many days of the calendar, in UTC, are left.
func daysUntil(day, now time.Time) int {
	return int(day.Sub(now.UTC().Truncate(24*time.Hour)).Hours() / 24)
}

// print writes a table for people. Names of jobs are a workflow's, and quoted.
func (r report) print(w io.Writer, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}

	row("state", "%s%s", r.State, ago(r.Since, now))
	if r.Reason != "" {
		row("reason", "%q", r.Reason)
	}
	if !r.JobSince.IsZero() {
		row("job", "%.80q%s", r.Job, ago(r.JobSince, now))
	}
	row("jobs", "%d since the service started", r.Jobs)
	if d := r.Drain; d != nil {
		row("drain", "%s", describeDrain(d, now))
	}

	row("actions runner", "%s", r.describeRunner())
	row("image", "%s", known(r.Image+" "+r.ImageVersion))
	row("guest base", "%s", known(r.GuestBase))
	row("agent", "%s", r.Agent)
	if r.Upgrade != nil {
		for _, line := range describeUpgrade(r.Upgrade, r.ImageVersion) {
			row("upgrade", "%s", line)
		}
	}
	if r.Renewal != nil {
		for _, line := range r.Renewal.describe() {
			row("renewal", "%s", line)
		}
	}
	return table.Flush()
}

// describeUpgrade returns a line for each version that was installed and does not
// run, or has not proven itself.
func describeUpgrade(s *upgrade.State, running string) []string {
	var lines []string
	switch p := s.Pending; {
	case p == nil:
	case p.Version == running:
		lines = append(
			lines,
			fmt.Sprintf("version %s was installed by %s, and has not been noted as good", p.Version, p.From),
		)
	default:
		lines = append(lines, fmt.Sprintf("version %s is installed, and starts with the next boot", p.Version))
	}
	for _, f := range s.Failed {
		lines = append(
			lines,
			fmt.Sprintf("version %s failed, noted %s: %s", f.Version, f.Time.Format(time.RFC3339), f.Reason),
		)
	}
	return lines
}

// describeRunner returns the version of the actions runner, where it is from, how old
// it is and how long it lasts, as far as these are known.
func (r report) describeRunner() string {
	text := known(r.RunnerVersion)
	switch r.RunnerFrom {
	case "":
	case "image":
		text += " of the image"
	default:
		text += " from " + r.RunnerFrom
	}
	if r.RunnerAge != nil {
		text += fmt.Sprintf(", published %s (%d days ago)", r.RunnerPublished, *r.RunnerAge)
	}
	if r.DaysLeft != nil {
		text += fmt.Sprintf(", served by GitHub until %s (%d days left)", r.RunnerDeadline, *r.DaysLeft)
	}
	return text
}

// describe returns a line for each version that does not run, or has not proven itself.
func (r *renewal) describe() []string {
	var lines []string
	if t := r.Trial; t != nil {
		lines = append(lines, fmt.Sprintf("actions runner %s is installed, and has not been online", t.Version))
	}
	for _, f := range r.Failed {
		lines = append(lines,
			fmt.Sprintf("actions runner %s failed, noted %s: %s", f.Version, f.Time.Format(time.RFC3339), f.Reason))
	}
	return lines
}

func describeDrain(d *control.Drain, now time.Time) string {
	text := "asked for" + ago(d.Since, now)
	switch {
	case d.Cancelled:
		text += ", and a job was cancelled at its deadline"
	case !d.Deadline.IsZero():
		text += ", a job is cancelled at " + d.Deadline.Format(time.RFC3339)
	case d.Brief:
		text += ", ends with a restart of runner.service"
	}
	return text
}

// ago returns a time and how long it is past, or "" for the zero time.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf(" since %s (%s)", t.UTC().Format(time.RFC3339), now.Sub(t).Round(time.Second))
}

func known(text string) string {
	if text == "" || text == " " {
		return "unknown"
	}
	return text
}
