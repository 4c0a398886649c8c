package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/guestapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

func TestMatchKeys(t *testing.T) {
	for _, test := range []struct {
		summary   string
		described string // KEY=IMAGE ...
		services  string // IMAGE ...
		want      string // KEY ..., - for none
	}{
		{summary: "nothing known", services: "a b", want: "- -"},
		{summary: "by order, images unknown", described: "x= y=", services: "a b", want: "x y"},
		{summary: "by order, one image twice", described: "x=a y=a", services: "a a", want: "x y"},
		{summary: "one left out", described: "x=a y= z=b", services: "a b", want: "x z"},
		{summary: "one of two alike left out", described: "x=a y=a z=b", services: "a b", want: "x z"},
		{summary: "by another name", described: "x=docker://a y=", services: "a", want: "x"},
		{summary: "unknown image among others", described: "x=a y=", services: "a b c", want: "x - -"},
		{summary: "no services", described: "x=a"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			var described []brokerapi.ServiceInfo
			for word := range strings.FieldsSeq(test.described) {
				key, image, _ := strings.Cut(word, "=")
				described = append(described, brokerapi.ServiceInfo{Key: key, Image: image})
			}
			var services []*member
			for image := range strings.FieldsSeq(test.services) {
				services = append(services, &member{spec: containerSpec{Container: brokerapi.Container{Image: image}}})
			}

			got := matchKeys(described, services)
			for i, key := range got {
				if key == "" {
					got[i] = "-"
				}
			}
			if want := strings.Fields(test.want); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// TestEarlyPulls: images are pulled as soon as they are known, a bounded number
// of them, and are in use until the job ends. The job does not wait for them.
func TestEarlyPulls(t *testing.T) {
	l := newLab(t)
	var pulls atomic.Int32
	l.images.onPull = func(ctx context.Context, name string, _ func(string)) error {
		pulls.Add(1)
		if name == "oci/slow" {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		return nil
	}
	l.working(func(context.Context, *fakeGuest, guestapi.Process, wire.Streams) (int, error) {
		l.eventually("images are pulled", func() bool { return pulls.Load() == maxEarlyPulls })
		l.eventually("they are in use", func() bool {
			l.images.mu.Lock()
			defer l.images.mu.Unlock()
			return l.images.inUse == maxEarlyPulls-2
		})
		return 100, nil
	})
	l.serve()

	info := &brokerapi.JobInfo{Name: "build\nforged", Images: []string{"oci/slow", "missing/x"}}
	for i := range 100 {
		info.Images = append(info.Images, fmt.Sprintf("oci/%d", i))
	}
	l.mustWork(info)
	if n := pulls.Load(); n != maxEarlyPulls {
		t.Errorf("%d images were pulled, want %d", n, maxEarlyPulls)
	}
}
