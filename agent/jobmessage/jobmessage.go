// Package jobmessage reads the message by which the listener of the actions
// runner hands a job to a worker, for what the broker can prepare early: the
// job's name, its services and its images. The message holds all secrets of the
// job in clear text; nothing of it is returned but those few strings.
//
// Its form is that of actions/runner 2.336.0: ProcessChannel.cs and
// StreamString.cs frame it, AgentJobRequestMessage.cs lists its members,
// TemplateTokenJsonConverter.cs and PipelineContextDataJsonConverter.cs encode
// what a workflow contains.
package jobmessage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
)

// The frame around a message: its type and the length of its body in bytes.
const (
	headerSize    = 8
	newJobRequest = 1
	maxBody       = 50_000_000 // StreamString.cs refuses more
)

// Bounds of what is returned, in bytes and elements.
const (
	maxName     = 256
	maxKey      = 128
	maxServices = 64
	maxImages   = 64
)

// Read reads the first message of a listener. It returns an error for one that
// it does not understand, and leaves values empty that only the worker can
// evaluate. It may stop reading before the message ends.
func Read(r io.Reader) (brokerapi.JobInfo, error) {
	info, err := read(r)
	if err != nil {
		return brokerapi.JobInfo{}, fmt.Errorf("cannot read job message: %w", err)
	}
	return info, nil
}

func read(r io.Reader) (brokerapi.JobInfo, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return brokerapi.JobInfo{}, err
	}
	if kind := binary.LittleEndian.Uint32(header[:]); kind != newJobRequest {
		return brokerapi.JobInfo{}, fmt.Errorf("its type is %d, not %d", kind, newJobRequest)
	}
	size := binary.LittleEndian.Uint32(header[4:])
	if size > maxBody {
		return brokerapi.JobInfo{}, fmt.Errorf("%d bytes are more than the %d allowed", size, maxBody)
	}

	var m message
	if err := newDecoder(&utf16Reader{r: io.LimitReader(r, int64(size))}).members(m.member); err != nil {
		return brokerapi.JobInfo{}, err
	}
	if m.name == "" {
		return brokerapi.JobInfo{}, errors.New("it names no job")
	}
	return m.info(), nil
}

// message is the part of a job message that serves an early start.
type message struct {
	name      string
	container node
	services  node
	images    []string // of docker:// steps
	contexts  contexts
}

// member reads one member of a job message.
func (m *message) member(d *decoder, name string) error {
	switch strings.ToLower(name) {
	case "jobdisplayname":
		n, err := d.node(1)
		m.name = n.text
		return err
	case "jobcontainer":
		n, err := d.node(tokenLevels)
		m.container = n
		return err
	case "jobservicecontainers":
		n, err := d.node(tokenLevels)
		m.services = n
		return err
	case "steps":
		return d.elements(m.step)
	case "contextdata":
		m.contexts = contexts{}
		return d.members(m.contexts.member)
	}
	return d.skip()
}

// step reads a step for the image of a docker:// action. A step with a
// condition of its own may not run at all, and needs nothing early.
func (m *message) step(d *decoder) error {
	n, err := d.node(stepLevels)
	if err != nil {
		return err
	}
	reference := n.members["reference"]
	if reference.members["type"].text != "containerRegistry" || len(m.images) == maxImages {
		return nil
	}
	if condition := n.members["condition"].text; condition == "" || condition == "success()" {
		m.images = append(m.images, reference.members["image"].text)
	}
	return nil
}

// info evaluates what was read.
func (m *message) info() brokerapi.JobInfo {
	info := brokerapi.JobInfo{Name: printable(m.name, maxName)}

	c, _ := m.containerOf(m.container)
	info.Container = c.image
	images := []string{c.public()}

	for _, p := range m.services.pairs() {
		c, known := m.containerOf(p.value)
		if known && c.image == "" || len(info.Services) == maxServices {
			continue // an empty image is how a workflow says: not this time
		}
		info.Services = append(info.Services, brokerapi.ServiceInfo{Key: printable(p.key, maxKey), Image: c.image})
		images = append(images, c.public())
	}

	for _, image := range slices.Concat(images, m.images) {
		if image != "" && image == imageName(image) && len(info.Images) < maxImages && !slices.Contains(info.Images, image) {
			info.Images = append(info.Images, image)
		}
	}
	return info
}

// containerImage is the image of a container or service.
type containerImage struct {
	image   string
	private bool // it is pulled with credentials, which stay in the message
}

// public returns the image if anybody may pull it.
func (c containerImage) public() string {
	if c.private {
		return ""
	}
	return c.image
}

// containerOf evaluates the image of a container: a scalar, or a mapping with
// one. It reports whether the image is known.
func (m *message) containerOf(token node) (c containerImage, known bool) {
	image := token
	for _, p := range token.pairs() {
		switch p.key {
		case "image":
			image = p.value
		case "credentials":
			c.private = true
		}
	}

	text, known := m.contexts.scalar(image)
	if expression := image.members["expr"].text; !known && expression != "" {
		// "container: ${{ matrix.container }}" may name a mapping, with credentials.
		text, known = m.contexts.text(expression + ".image")
		c.private = true
	}
	text = strings.TrimPrefix(text, "docker://")
	c.image = imageName(text)
	return c, known && c.image == text
}

// imageName returns s if it can be the name of an image, or nothing.
func imageName(s string) string {
	if len(s) > maxText || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) || r == ' ' }) {
		return ""
	}
	return s
}

// printable returns s without control characters and with at most limit bytes.
func printable(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	if len(s) <= limit {
		return s
	}
	for !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
