package jobmessage

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
)

// frame returns a message as the listener sends it.
func frame(kind uint32, body string) []byte {
	units := utf16.Encode([]rune(body))
	out := binary.LittleEndian.AppendUint32(nil, kind)
	out = binary.LittleEndian.AppendUint32(out, uint32(2*len(units)))
	for _, u := range units {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}

// contextData is that of a job in a matrix.
const contextData = `"contextData":{
  "github":{"t":2,"d":[{"k":"event","v":{"t":2,"d":[{"k":"repository","v":"not this"}]}},
    {"k":"repository","v":"acme/app"},{"k":"token","v":"ghs_SECRET"}]},
  "matrix":{"t":2,"d":[{"k":"db","v":"postgres"},{"k":"version","v":18},{"k":"half","v":1.5},{"k":"none","v":""},
    {"k":"container","v":{"t":2,"d":[{"k":"image","v":"node:24"},{"k":"options","v":"--cpus 1"}]}},
    {"k":"list","v":{"t":1,"a":["first:1","second:2"]}},{"k":"on","v":true},{"k":"nothing","v":null}]},
  "needs":{"t":2,"d":[{"k":"build","v":{"t":2,"d":[{"k":"result","v":"success"},
    {"k":"outputs","v":{"t":2,"d":[{"k":"image","v":"ghcr.io/acme/app:abc"}]}}]}}]},
  "inputs":null,
  "vars":{"t":2,"d":[{"k":"REGISTRY","v":"registry.example"}]},
  "strategy":{"t":2,"d":[{"k":"job-index","v":0}]}}`

func TestRead(t *testing.T) {
	for _, test := range []struct {
		summary string
		members string // besides the job's name
		want    brokerapi.JobInfo
	}{{
		summary: "steps alone",
		members: `"jobContainer":null,"steps":[{"type":"action","reference":{"type":"script"}}]`,
	}, {
		summary: "a container by its name",
		members: `"jobContainer":"node:24"`,
		want:    brokerapi.JobInfo{Container: "node:24", Images: []string{"node:24"}},
	}, {
		summary: "a container with the scheme of Docker",
		members: `"jobContainer":"docker://node:24"`,
		want:    brokerapi.JobInfo{Container: "node:24", Images: []string{"node:24"}},
	}, {
		summary: "a container with its place in a file",
		members: `"jobContainer":{"type":0,"file":1,"line":7,"col":16,"lit":"node:24"}`,
		want:    brokerapi.JobInfo{Container: "node:24", Images: []string{"node:24"}},
	}, {
		summary: "a container as a mapping",
		members: `"jobContainer":{"type":2,"map":[{"Key":"options","Value":"--cpus 1"},{"Key":"image","Value":"node:24"}]}`,
		want:    brokerapi.JobInfo{Container: "node:24", Images: []string{"node:24"}},
	}, {
		summary: "a container of a private registry is not for everybody",
		members: `"jobContainer":{"type":2,"map":[{"Key":"image","Value":"r.example/a"},
			{"Key":"credentials","Value":{"type":2,"map":[{"Key":"username","Value":"u"},
			{"Key":"password","Value":{"type":3,"expr":"secrets.P"}}]}}]}`,
		want: brokerapi.JobInfo{Container: "r.example/a"},
	}, {
		summary: "a container that is a mapping of the matrix",
		members: contextData + `,"jobContainer":{"type":3,"expr":"matrix.container"}`,
		want:    brokerapi.JobInfo{Container: "node:24"},
	}, {
		summary: "services, before the contexts they depend on",
		members: `"jobServiceContainers":{"type":2,"map":[
			{"Key":"db","Value":{"type":2,"map":[
				{"Key":"image","Value":{"type":3,"expr":"format('{0}:{1}', matrix.db, matrix.version)"}},
				{"Key":"ports","Value":{"type":1,"seq":["5432:5432"]}}]}},
			{"Key":"cache","Value":"redis"},
			{"Key":"off","Value":{"type":2,"map":[{"Key":"image","Value":{"type":3,"expr":"matrix.none"}}]}},
			{"Key":"also-off","Value":""},
			{"Key":"later","Value":{"type":2,"map":[{"Key":"image","Value":{"type":3,"expr":"fromJSON(vars.X).image"}}]}}
			]},` + contextData,
		want: brokerapi.JobInfo{
			Services: []brokerapi.ServiceInfo{{Key: "db", Image: "postgres:18"}, {Key: "cache", Image: "redis"}, {Key: "later"}},
			Images:   []string{"postgres:18", "redis"},
		},
	}, {
		summary: "steps with docker://",
		members: `"steps":[
			{"reference":{"type":"containerRegistry","image":"alpine:3"},"condition":"success()"},
			{"reference":{"type":"containerRegistry","image":"alpine:3"}},
			{"reference":{"type":"containerRegistry","image":"perhaps"},"condition":"failure()"},
			{"reference":{"type":"repository","name":"actions/checkout"}}]`,
		want: brokerapi.JobInfo{Images: []string{"alpine:3"}},
	}, {
		summary: "what is not the name of an image",
		members: `"jobContainer":"a b","jobServiceContainers":{"type":2,"map":[{"Key":"a\nb","Value":"x\ny"}]}`,
		want:    brokerapi.JobInfo{Services: []brokerapi.ServiceInfo{{Key: "ab"}}},
	}, {
		summary: "other types than those known",
		members: `"jobContainer":[1,[2]],"jobServiceContainers":7,"steps":{"a":[{}]},"contextData":[[]]`,
	}} {
		t.Run(test.summary, func(t *testing.T) {
			message := frame(newJobRequest, `{"jobDisplayName":"build 😀",`+test.members+`,"billingOwnerId":"x"}`)
			// The next message follows, byte by byte.
			r := iotest.OneByteReader(io.MultiReader(bytes.NewReader(message), bytes.NewReader(frame(2, ""))))
			got, err := Read(r)
			test.want.Name = "build 😀"
			if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
				t.Errorf("got %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestExpressions(t *testing.T) {
	var m message
	if err := newDecoder(strings.NewReader("{" + contextData + "}")).members(m.member); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		expression, want string
		unknown          bool
	}{
		{expression: "'text'", want: "text"},
		{expression: "'it''s'''", want: "it's'"},
		{expression: "''", want: ""},
		{expression: "matrix.db", want: "postgres"},
		{expression: " Matrix.DB ", want: "postgres"},
		{expression: "matrix['db']", want: "postgres"},
		{expression: "matrix.version", want: "18"},
		{expression: "matrix.half", want: "1.5"},
		{expression: "matrix.on", want: "true"},
		{expression: "matrix.nothing", want: ""},
		{expression: "matrix.list[1]", want: "second:2"},
		{expression: "matrix.container.image", want: "node:24"},
		{expression: "needs.build.outputs.image", want: "ghcr.io/acme/app:abc"},
		{expression: "github.repository", want: "acme/app"},
		{expression: "format('{0}/{1}:{{x}}', vars.registry, github.repository)", want: "registry.example/acme/app:{x}"},
		{expression: "format('{0}', format('{0}', 'a'))", want: "a"},

		{expression: "", unknown: true},
		{expression: "matrix", unknown: true},
		{expression: "matrix.", unknown: true},
		{expression: "matrix.db.", unknown: true},
		{expression: "matrix.missing", unknown: true},
		{expression: "matrix.list[2]", unknown: true},
		{expression: "matrix.list[x]", unknown: true},
		{expression: "matrix.*", unknown: true},
		{expression: "matrix.db || 'x'", unknown: true},
		{expression: "inputs.image", unknown: true},
		{expression: "strategy.job-index", unknown: true},
		{expression: "secrets.IMAGE", unknown: true},
		{expression: "github.token", unknown: true},
		{expression: "github['TOKEN']", unknown: true},
		{expression: "github.event.repository", unknown: true},
		{expression: "env('x')", unknown: true},
		{expression: "format()", unknown: true},
		{expression: "format('{0}')", unknown: true},
		{expression: "format('{0', 'x')", unknown: true},
		{expression: "format('}', 'x')", unknown: true},
		{expression: "format('{0:x}', 'x')", unknown: true},
		{expression: "format('{0}', 'x'", unknown: true},
		{expression: "'open", unknown: true},
		{expression: "'open''", unknown: true},
		{expression: strings.Repeat("format('{0}',", 50) + "'x'" + strings.Repeat(")", 50), unknown: true},
		{expression: "format('" + strings.Repeat("{0}", 100) + "', '" + strings.Repeat("x", 100) + "')", unknown: true},
	} {
		got, known := m.contexts.text(test.expression)
		if got != test.want || known == test.unknown {
			t.Errorf("%.80s: got %q, %v; want %q, %v", test.expression, got, known, test.want, !test.unknown)
		}
	}
}

func TestReadErrors(t *testing.T) {
	for _, test := range []struct {
		summary string
		message []byte
		want    string
	}{
		{summary: "nothing", want: "cannot read job message: EOF"},
		{summary: "part of a header", message: []byte{1, 0, 0}, want: "cannot read job message: unexpected EOF"},
		{summary: "another type", message: frame(2, ""), want: "cannot read job message: its type is 2, not 1"},
		{summary: "an empty body", message: frame(1, ""), want: "cannot read job message: EOF"},
		{summary: "no job", message: frame(1, "[]"), want: "cannot read job message: it names no job"},
		{
			summary: "a length above the real worker's", message: []byte{1, 0, 0, 0, 0x81, 0xf0, 0xfa, 2},
			want: "cannot read job message: 50000001 bytes are more than the 50000000 allowed",
		},
		{
			summary: "a negative length", message: []byte{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
			want: "cannot read job message: 4294967295 bytes are more than the 50000000 allowed",
		},
		{
			summary: "nested without end", message: frame(1, strings.Repeat("[", 1000)),
			want: "cannot read job message: it is nested deeper than 128 levels",
		},
		{
			summary: "nested without end in what is kept", message: frame(1, `{"jobContainer":`+strings.Repeat(`{"a":`, 1000)),
			want: "cannot read job message: it is nested deeper than 128 levels",
		},
		{summary: "cut", message: frame(1, `{"jobDisplayName":"a"}`)[:40], want: "cannot read job message: unexpected EOF"},
	} {
		got, err := Read(bytes.NewReader(test.message))
		if err == nil || err.Error() != test.want || got.Name != "" {
			t.Errorf("%s: got %v, %v; want %s", test.summary, got, err, test.want)
		}
	}
}

// TestSecrets: nothing of a message leaves that was not asked for, wherever it
// stands.
func TestSecrets(t *testing.T) {
	info, err := Read(bytes.NewReader(frame(newJobRequest, `{"jobDisplayName":"x",
		"resources":{"endpoints":[{"authorization":{"parameters":{"AccessToken":"SECRET"}}}]},
		"variables":{"system.github.token":{"value":"SECRET","isSecret":true}},"mask":[{"type":"regex","value":"SECRET"}],
		"jobContainer":{"type":2,"map":[{"Key":"image","Value":{"type":3,"expr":"format('x/{0}', github.token)"}},
			{"Key":"env","Value":{"type":2,"map":[{"Key":"A","Value":"SECRET"}]}}]},
		"jobServiceContainers":{"type":2,"map":[{"Key":"db","Value":{"type":2,"map":[{"Key":"image","Value":"pg"},
			{"Key":"credentials","Value":{"type":2,"map":[{"Key":"password","Value":"SECRET"}]}}]}}]},
		"steps":[{"inputs":{"type":2,"map":[{"Key":"script","Value":"SECRET"}]}}],`+
		strings.ReplaceAll(contextData, "ghs_SECRET", "SECRET")+`}`)))
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(info)
	if want := `{"name":"x","services":[{"key":"db","image":"pg"}]}`; err != nil || string(data) != want {
		t.Errorf("got %s, %v; want %s", data, err, want)
	}
}

// TestBounds: a message with more of everything than anybody needs is read to
// its end, and little of it is kept.
func TestBounds(t *testing.T) {
	var services, steps []string
	for i := range 10_000 {
		services = append(services, fmt.Sprintf(`{"Key":"s%d","Value":"i%d"}`, i, i))
		steps = append(steps, fmt.Sprintf(`{"reference":{"type":"containerRegistry","image":"i%d"}}`, i))
	}
	info, err := Read(bytes.NewReader(frame(newJobRequest, `{"steps":[`+strings.Join(steps, ",")+`],
		"jobServiceContainers":{"type":2,"map":[`+strings.Join(services, ",")+`]},
		"jobContainer":"`+strings.Repeat("x", 1<<20)+`","jobDisplayName":"`+strings.Repeat("ä", 500)+`"}`)))
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Services) != maxServices || len(info.Images) != maxImages || info.Container != "" ||
		info.Name != strings.Repeat("ä", maxName/2) {
		t.Errorf("got %d services, %d images, container %.10s..., name %s",
			len(info.Services), len(info.Images), info.Container, info.Name)
	}
}

// TestUTF16: text is the same however it is cut, and half a pair is replaced.
func TestUTF16(t *testing.T) {
	for _, test := range []struct {
		summary string
		in      []uint16
		want    string
	}{
		{summary: "empty"},
		{summary: "all lengths", in: utf16.Encode([]rune("aä€😀z")), want: "aä€😀z"},
		{summary: "a high half", in: []uint16{0xd83d, 'a'}, want: "\ufffda"},
		{summary: "a low half", in: []uint16{0xde00, 'a'}, want: "\ufffda"},
		{summary: "two high halves", in: []uint16{0xd83d, 0xd83d, 0xde00}, want: "\ufffd😀"},
		{summary: "a high half at the end", in: []uint16{'a', 0xd83d}, want: "a\ufffd"},
	} {
		var raw []byte
		for _, u := range test.in {
			raw = binary.LittleEndian.AppendUint16(raw, u)
		}
		for _, r := range []io.Reader{
			bytes.NewReader(raw), iotest.OneByteReader(bytes.NewReader(raw)), iotest.DataErrReader(bytes.NewReader(raw)),
		} {
			got, err := io.ReadAll(&utf16Reader{r: r})
			if err != nil || string(got) != test.want {
				t.Errorf("%s: got %q, %v; want %q", test.summary, got, err, test.want)
			}
		}
	}
}

// FuzzRead: any body is read or refused, and what comes of it is small and can
// be printed.
func FuzzRead(f *testing.F) {
	f.Add(`{"jobDisplayName":"x","jobContainer":{"type":3,"expr":"format('{0}', matrix.db)"},` + contextData + `}`)
	f.Add(`{"jobDisplayName":"x","jobServiceContainers":{"type":2,"map":[{"Key":"db","Value":"pg"}]}}`)
	f.Add(`{"jobDisplayName":"x","steps":[{"reference":{"type":"containerRegistry","image":"a"}}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		info, err := Read(bytes.NewReader(frame(newJobRequest, body)))
		if err != nil {
			return
		}
		if len(info.Services) > maxServices || len(info.Images) > maxImages || info.Name != printable(info.Name, maxName) {
			t.Errorf("got %d services, %d images, name %q", len(info.Services), len(info.Images), info.Name)
		}
		images := append(slices.Clone(info.Images), info.Container)
		for _, s := range info.Services {
			images = append(images, s.Image)
			if s.Key != printable(s.Key, maxKey) {
				t.Errorf("got service %q", s.Key)
			}
		}
		for _, image := range images {
			if image != imageName(image) {
				t.Errorf("got image %q", image)
			}
		}
	})
}

// BenchmarkRead: a message of 5 MB, which a big matrix with many secrets makes.
func BenchmarkRead(b *testing.B) {
	var steps []string
	const step = `{"type":"action","id":"%d","inputs":{"type":2,"map":[{"Key":"script","Value":"%s"}]}}`
	for i := range 2500 {
		steps = append(steps, fmt.Sprintf(step, i, strings.Repeat("echo x; ", 115)))
	}
	message := frame(newJobRequest, `{"jobDisplayName":"x",`+contextData+`,"steps":[`+strings.Join(steps, ",")+`]}`)
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Read(bytes.NewReader(message)); err != nil {
			b.Fatal(err)
		}
	}
}
