package powercut

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"github.com/mkappliance/mkappliance/agent/disk"
	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/internal/verity"
)

// Checker looks at the disks of a replay.
type Checker struct {
	Arch arch.Arch
	// UKIs are the SHA-256 of the UKIs that the appliance may have.
	UKIs [][sha256.Size]byte
	// Identity holds files of /var that must be there unchanged, by their paths in it.
	Identity map[string][]byte
	// Dir is a directory for temporary files.
	Dir string

	loader  []byte // of the first disk
	results map[string]result
}

// result is that of an earlier check of the same content.
type result struct {
	key    string
	report Report
	err    error
}

// Report is what is on a disk.
type Report struct {
	// Version is the one that boots.
	Version string
	// Backup is set if only the second copy of the partition table is whole.
	Backup bool
	// Registered is set if the appliance has the marker of a registration.
	Registered bool
	// Unwritten is set if config.env is empty: cloud-init has to write it again.
	Unwritten bool
	// Empty is the number of UKIs on the ESP without content, as a power cut leaves of
	// one that is being renamed.
	Empty int
}

// ESP returns where the ESP of an image lies, in bytes.
func ESP(image *os.File, a arch.Arch) (offset, size int64, err error) {
	table, err := gpt.Read(image, nbdSector, nbdSector)
	if err != nil {
		return 0, 0, err
	}
	p, err := (&Checker{Arch: a}).find(table)
	return p.esp.offset, p.esp.size, err
}

// UKIs returns the hashes of the UKIs on the ESP of an image.
func UKIs(image *os.File, a arch.Arch) ([][sha256.Size]byte, error) {
	offset, size, err := ESP(image, a)
	if err != nil {
		return nil, err
	}
	f, err := openFAT(io.NewSectionReader(image, offset, size))
	if err != nil {
		return nil, err
	}
	entries, _, err := readEntries(f)
	var sums [][sha256.Size]byte
	for _, e := range entries {
		sums = append(sums, sha256.Sum256(e.content))
	}
	return sums, err
}

// Check returns what the appliance finds when power is back after a cut, or why it
// does not come back as it was.
func (c *Checker) Check(ctx context.Context, file *os.File, cut *Cut) (Report, error) {
	var r Report
	// The kernel, with its parameter gpt, and EDK2 do the same.
	table, err := gpt.Read(file, nbdSector, nbdSector)
	if err != nil {
		return r, fmt.Errorf("no copy of the partition table is whole: %w", err)
	}
	r.Backup = table.RecoveredFromBackup

	var parts partitions
	if parts, err = c.find(table); err != nil {
		return r, err
	}
	entry, err := c.checkESP(io.NewSectionReader(file, parts.esp.offset, parts.esp.size), &r)
	if err != nil {
		return r, err
	}
	r.Version = entry.version

	if err := c.checkSlot(file, cut, table, entry); err != nil {
		return r, fmt.Errorf("version %s would be started: %w", entry.version, err)
	}
	inVar, err := c.once("var", cut, func() (Report, error) {
		return c.checkVar(ctx, file, parts.data)
	}, parts.data)
	r.Registered, r.Unwritten = inVar.Registered, inVar.Unwritten
	return r, err
}

const nbdSector = 512

// part is a partition.
type part struct{ offset, size int64 }

// partitions are those that an appliance cannot do without.
type partitions struct{ esp, data part }

func (c *Checker) find(table *gpt.Table) (partitions, error) {
	var p partitions
	for _, e := range table.Partitions {
		at := part{offset: int64(e.Start) * nbdSector, size: int64(e.End-e.Start+1) * nbdSector}
		switch {
		case strings.EqualFold(string(e.Type), layout.Partition{Role: layout.ESP}.TypeID(c.Arch)):
			p.esp = at
		case e.Name == layout.VarLabel:
			p.data = at
		}
	}
	if p.esp.size == 0 || p.data.size == 0 {
		return p, errors.New("the partition table lacks the ESP or the var partition")
	}
	return p, nil
}

// findPartition returns the partition with a UUID.
func findPartition(table *gpt.Table, id string) (part, error) {
	for _, e := range table.Partitions {
		if strings.EqualFold(e.GUID, id) {
			return part{offset: int64(e.Start) * nbdSector, size: int64(e.End-e.Start+1) * nbdSector}, nil
		}
	}
	return part{}, fmt.Errorf("no partition has the UUID %s", id)
}

// checkESP returns the entry that the boot loader chooses, if boot loader and entry
// are whole.
func (c *Checker) checkESP(esp io.ReaderAt, r *Report) (bootEntry, error) {
	f, err := openFAT(esp)
	if err != nil {
		return bootEntry{}, err
	}
	entries, files, err := readEntries(f)
	if err != nil {
		return bootEntry{}, err
	}
	if err := c.checkLoader(f, files); err != nil {
		return bootEntry{}, err
	}
	for _, file := range files {
		if isUKI(file.path) && file.size == 0 {
			r.Empty++
		}
	}
	entry, ok := choose(entries)
	if !ok {
		return entry, errors.New("the ESP has no UKI")
	}
	if !slices.Contains(c.UKIs, sha256.Sum256(entry.content)) {
		return entry, fmt.Errorf("the UKI %s would be started, and is not whole", entry.name)
	}
	return entry, checkShared(files)
}

// isUKI reports whether the boot loader looks at a file of the ESP.
func isUKI(path string) bool {
	dir, name := filepath.Split(path)
	return strings.EqualFold(dir, layout.UKIDir+"/") && strings.HasSuffix(strings.ToLower(name), ".efi") &&
		!strings.HasPrefix(name, ".")
}

// readEntries returns the files of an ESP, and the UKIs that the boot loader shows.
func readEntries(f *fat) ([]bootEntry, []fatFile, error) {
	files, err := f.files()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read ESP: %w", err)
	}
	var entries []bootEntry
	for _, file := range files {
		if !isUKI(file.path) {
			continue
		}
		content, err := f.read(file)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot read %s of the ESP: %w", file.path, err)
		}
		if entry, err := parseEntry(filepath.Base(file.path), content); err == nil {
			entries = append(entries, entry) // the boot loader leaves others out too
		}
	}
	return entries, files, nil
}

// checkLoader asserts that the boot loader is what it was.
func (c *Checker) checkLoader(f *fat, files []fatFile) error {
	for _, file := range files {
		if !strings.EqualFold(file.path, "EFI/BOOT/"+c.Arch.FallbackLoader()) {
			continue
		}
		content, err := f.read(file)
		if err != nil {
			return fmt.Errorf("cannot read the boot loader: %w", err)
		}
		if c.loader == nil {
			c.loader = content
		}
		if !bytes.Equal(c.loader, content) {
			return errors.New("the boot loader is not what it was")
		}
		return nil
	}
	return errors.New("the ESP has no boot loader")
}

// checkShared asserts that no two files have a cluster in common: removing one
// would break the other.
func checkShared(files []fatFile) error {
	owner := map[uint32]string{}
	for _, file := range files {
		for _, cluster := range file.clusters {
			if other := owner[cluster]; other != "" {
				return fmt.Errorf("%s and %s of the ESP have a cluster in common", other, file.path)
			}
			owner[cluster] = file.path
		}
	}
	return nil
}

// once returns the result of a check, which runs unless it ran for the same content
// of some parts of the disk before.
func (c *Checker) once(name string, cut *Cut, check func() (Report, error), parts ...part) (Report, error) {
	if c.results == nil {
		c.results = map[string]result{}
	}
	key := ""
	for _, p := range parts {
		key += fmt.Sprintf("%x ", cut.Key(p.offset, p.size))
	}
	known, ok := c.results[name]
	if !ok || known.key != key {
		known = result{key: key}
		known.report, known.err = check()
		c.results[name] = known
	}
	return known.report, known.err
}

// checkSlot verifies the slot of an entry as the kernel does, and all of it.
func (c *Checker) checkSlot(file io.ReaderAt, cut *Cut, table *gpt.Table, entry bootEntry) error {
	rootID, verityID := disk.IDs(entry.root)
	root, err := findPartition(table, rootID.String())
	if err != nil {
		return err
	}
	hashes, err := findPartition(table, verityID.String())
	if err != nil {
		return err
	}

	_, err = c.once("slot of "+entry.root.String(), cut, func() (Report, error) {
		tree, err := verity.Read(io.NewSectionReader(file, hashes.offset, hashes.size), hashes.size, entry.root)
		if err != nil {
			return Report{}, err
		}
		return Report{}, checkBlocks(bufio.NewReaderSize(io.NewSectionReader(file, root.offset, root.size), 1<<20), tree)
	}, root, hashes)
	return err
}

func checkBlocks(data io.Reader, tree *verity.Tree) error {
	hasher := verity.NewHasher(tree.Salt())
	block := make([]byte, verity.BlockSize)
	for i := range tree.Blocks() {
		if _, err := io.ReadFull(data, block); err != nil {
			return err
		}
		if hasher.Sum(block) != tree.Leaf(i) {
			return fmt.Errorf("block %d of its root file system is wrong", i)
		}
	}
	return nil
}

// Paths in /var, without it.
const (
	varMachineID  = "/lib/runner/host/machine-id"
	varHostKey    = "/lib/runner/host/ssh_host_ed25519_key"
	varConfig     = "/lib/runner/etc/config.env"
	varMarker     = "/lib/runner/installed"
	varRunner     = "/lib/runner/actions-runner/.runner"
	varRSA        = "/lib/runner/actions-runner/.credentials_rsaparams"
	varCredential = "/lib/runner/actions-runner/.credentials"
	varUpgrade    = "/lib/runner/upgrade/state.json"
	varSeed       = "/lib/cloud/seed-applied"
)

// identityFiles are the paths in /var of what makes an appliance the one it is.
func identityFiles() []string {
	return []string{varMachineID, varHostKey, varConfig, varMarker, varRunner, varRSA, varCredential}
}

// checkVar repairs a copy of the var file system as the initrd does, and looks at
// what is in it.
func (c *Checker) checkVar(ctx context.Context, file *os.File, p part) (r Report, err error) {
	files, err := readVar(ctx, file, p, c.Dir)
	if err != nil {
		return r, err
	}
	for path, want := range c.Identity {
		if !bytes.Equal(files[path], want) {
			return r, fmt.Errorf("/var%s has %d bytes and is not what it was", path, len(files[path]))
		}
	}
	_, r.Registered = files[varMarker]
	config, ok := files[varConfig]
	r.Unwritten = ok && len(config) == 0
	return r, checkWhole(files)
}

// checkWhole asserts that nothing is half there that is made only once.
func checkWhole(files map[string][]byte) error {
	if id, ok := files[varMachineID]; ok && len(bytes.TrimSpace(id)) != 32 {
		return fmt.Errorf("the machine id is %q", id)
	}
	const end = "-----END OPENSSH PRIVATE KEY-----\n"
	if key, ok := files[varHostKey]; ok && !bytes.HasSuffix(key, []byte(end)) {
		return fmt.Errorf("the ssh host key has %d bytes and is not whole", len(key))
	}
	if state, ok := files[varUpgrade]; ok && !json.Valid(state) {
		return fmt.Errorf("the state of upgrades is %q", state)
	}

	if _, ok := files[varSeed]; ok && len(files[varConfig]) == 0 {
		return errors.New("cloud-init has applied the seed, and config.env is empty")
	}
	if _, ok := files[varMarker]; !ok {
		return nil
	}
	for _, path := range []string{varMarker, varRunner, varRSA, varCredential} {
		if !json.Valid(bytes.TrimPrefix(files[path], []byte("\xef\xbb\xbf"))) {
			return fmt.Errorf("the appliance is registered, and /var%s is %.40q", path, files[path])
		}
	}
	if _, ok := files[varSeed]; !ok {
		return errors.New("the appliance is registered, and cloud-init would begin anew")
	}
	return nil
}

// ReadIdentity returns the files of an appliance's identity on its disk.
func (c *Checker) ReadIdentity(ctx context.Context, file *os.File) (map[string][]byte, error) {
	table, err := gpt.Read(file, nbdSector, nbdSector)
	if err != nil {
		return nil, err
	}
	parts, err := c.find(table)
	if err != nil {
		return nil, err
	}
	files, err := readVar(ctx, file, parts.data, c.Dir)
	delete(files, varUpgrade)
	delete(files, varSeed)
	return files, err
}

// readVar copies the var file system out of a disk, repairs the copy as
// systemd-fsck does, by fsck.ext4(8) -p, and returns the files of an appliance's
// identity and state that it has, by their paths in it.
func readVar(ctx context.Context, disk *os.File, p part, tmp string) (map[string][]byte, error) {
	dir, err := os.MkdirTemp(tmp, "var")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	image := filepath.Join(dir, "var.img")
	if err := copySparse(disk, p, image, p.size); err != nil {
		return nil, fmt.Errorf("cannot copy the var file system: %w", err)
	}

	out, err := run.Output(ctx, run.Local{}, run.Cmd{Args: []string{"e2fsck", "-p", image}})
	var exit *run.ExitError
	if errors.As(err, &exit) && exit.Status == 1 { // repaired
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("the var file system cannot be repaired: %w: %s", err, out)
	}

	var commands strings.Builder
	paths := append(identityFiles(), varUpgrade, varSeed)
	for i, path := range paths {
		fmt.Fprintf(&commands, "dump %s %s/%d\n", path, dir, i)
	}
	err = run.Local{}.Exec(ctx, run.Cmd{Args: []string{"debugfs", "-f", "-", image},
		Stdin: strings.NewReader(commands.String())})
	if err != nil {
		return nil, fmt.Errorf("cannot read the var file system: %w", err)
	}
	return readDumps(dir, paths)
}

// readDumps reads what debugfs has written: nothing of a file that does not exist.
func readDumps(dir string, paths []string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for i, path := range paths {
		data, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(i)))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		files[path] = data
	}
	return files, nil
}
