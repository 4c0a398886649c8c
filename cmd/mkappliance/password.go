package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/publish"
	"github.com/mkappliance/mkappliance/internal/release"
)

// passwordFileVariable names a file with the password of private keys. A password
// itself is neither an argument nor a variable: other processes can read those.
const passwordFileVariable = "MKAPPLIANCE_PASSWORD_FILE"

// passwordFlags say where the password of a private key comes from.
type passwordFlags struct{ file string }

func (p *passwordFlags) add(f *pflag.FlagSet) {
	f.StringVar(&p.file, "password-file", "",
		"read the password of the private key from the first line of `FILE` (default: that of $"+passwordFileVariable+")")
}

// read returns the password of the file that was named, if one was.
func (p *passwordFlags) read() (password string, named bool, err error) {
	path := p.file
	if path == "" {
		path = os.Getenv(passwordFileVariable)
	}
	if path == "" {
		return "", false, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", true, cli.Usage(fmt.Errorf("cannot read password: %w", err))
	}
	line, _, _ := bytes.Cut(data, []byte{'\n'})
	password = string(bytes.TrimRight(line, "\r"))
	if password == "" {
		return "", true, cli.Usage(fmt.Errorf("cannot read password: the first line of %s is empty", path))
	}
	return password, true, nil
}

// get returns the password of a key that is encrypted.
func (p *passwordFlags) get() (string, error) {
	password, named, err := p.read()
	if named {
		return password, err
	}
	return askPassword("Password of the private key: ")
}

// askPassword asks on the terminal, without an echo.
func askPassword(prompt string) (string, error) {
	terminal, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", cli.Usage(errors.New("cannot ask for a password without a terminal; give --password-file"))
	}
	defer terminal.Close()

	fmt.Fprint(terminal, prompt)
	password, err := term.ReadPassword(int(terminal.Fd()))
	fmt.Fprintln(terminal)
	if err != nil {
		return "", fmt.Errorf("cannot read password: %w", err)
	}
	if len(password) == 0 {
		return "", cli.Usage(errors.New("the password is empty"))
	}
	return string(password), nil
}

// keyFlags name the private key to sign with.
type keyFlags struct {
	path     string
	password passwordFlags
}

func (k *keyFlags) add(f *pflag.FlagSet) {
	f.StringVarP(&k.path, "key", "k", "", "sign with the private key in `FILE` (required)")
	_ = cobra.MarkFlagFilename(f, "key", "key")
	k.password.add(f)
}

func (k *keyFlags) read() (release.PrivateKey, error) {
	if k.path == "" {
		return release.PrivateKey{}, cli.Usage(errors.New("no private key is named; give --key"))
	}
	key, err := publish.ReadPrivateKey(k.path, k.password.get)
	if err != nil {
		return key, cli.Usage(err)
	}
	return key, nil
}
