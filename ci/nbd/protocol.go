package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Numbers of the protocol.
const (
	magicServer  = 0x4e42444d41474943 // NBDMAGIC
	magicOption  = 0x49484156454f5054 // IHAVEOPT
	magicAnswer  = 0x3e889045565a9
	magicRequest = 0x25609513
	magicReply   = 0x67446698

	flagFixedNewstyle = 1
	flagNoZeroes      = 2

	optExportName = 1
	optAbort      = 2
	optInfo       = 6
	optGo         = 7

	repAck         = 1
	repInfo        = 3
	repUnsupported = 1<<31 | 1
	infoExport     = 0
	infoBlockSize  = 3

	transmission = 1 /* has flags */ | 4 /* flush */ | 8 /* FUA */ | 32 /* trim */ | 64 /* write zeroes */

	commandRead        = 0
	commandWrite       = 1
	commandDisconnect  = 2
	commandFlush       = 3
	commandTrim        = 4
	commandWriteZeroes = 6
	commandFUA         = 1

	errnoIO      = 5
	errnoInvalid = 22
)

// A disk is written in sectors: that is what a power cut may tear a write into.
const (
	// SectorSize is the smallest part of the disk that is written, in bytes.
	SectorSize = 512
	preferred  = 4096
	maxRequest = 32 << 20
	maxOption  = 1 << 16
)

// negotiate speaks the first part of the protocol, and reports whether requests
// follow.
func negotiate(in *bufio.Reader, out *bufio.Writer, size int64) (bool, error) {
	err := writeAll(out, uint64(magicServer), uint64(magicOption), uint16(flagFixedNewstyle|flagNoZeroes))
	if err = errors.Join(err, out.Flush()); err != nil {
		return false, err
	}
	var flags uint32
	if err := binary.Read(in, binary.BigEndian, &flags); err != nil {
		return false, err
	}

	for {
		var option struct {
			Magic          uint64
			Number, Length uint32
		}
		if err := binary.Read(in, binary.BigEndian, &option); err != nil {
			return false, err
		}
		if option.Magic != magicOption || option.Length > maxOption {
			return false, errors.New("not an option")
		}
		if _, err := in.Discard(int(option.Length)); err != nil {
			return false, err
		}

		err := answerOption(out, option.Number, size, flags&flagNoZeroes != 0)
		if err = errors.Join(err, out.Flush()); err != nil {
			return false, err
		}
		switch option.Number {
		case optGo, optExportName:
			return true, nil
		case optAbort:
			return false, nil
		}
	}
}

// answerOption replies to an option. Every name of an export stands for the one
// disk.
func answerOption(out io.Writer, option uint32, size int64, noZeroes bool) error {
	reply := func(kind uint32, values ...any) error {
		length := 0
		for _, value := range values {
			length += binary.Size(value)
		}
		head := []any{uint64(magicAnswer), option, kind, uint32(length)}
		return writeAll(out, append(head, values...)...)
	}

	switch option {
	case optExportName:
		if err := writeAll(out, uint64(size), uint16(transmission)); err != nil || noZeroes {
			return err
		}
		return writeAll(out, make([]byte, 124))
	case optInfo, optGo:
		return errors.Join(
			reply(repInfo, uint16(infoExport), uint64(size), uint16(transmission)),
			reply(repInfo, uint16(infoBlockSize), uint32(SectorSize), uint32(preferred), uint32(maxRequest)),
			reply(repAck))
	case optAbort:
		return reply(repAck)
	}
	return reply(repUnsupported)
}

var errDisconnect = errors.New("the client disconnects")

// readCall reads one request. One that cannot be carried out has an errno.
func readCall(in io.Reader, size int64) (call, error) {
	var head struct {
		Magic          uint32
		Flags, Command uint16
		Handle, Offset uint64
		Length         uint32
	}
	if err := binary.Read(in, binary.BigEndian, &head); err != nil {
		return call{}, err
	}
	if head.Magic != magicRequest {
		return call{}, errors.New("not a request")
	}

	c := call{handle: head.Handle, Request: Request{Offset: int64(head.Offset), Length: int64(head.Length),
		FUA: head.Flags&commandFUA != 0}}
	switch head.Command {
	case commandDisconnect:
		return c, errDisconnect
	case commandRead:
		c.read = true
	case commandWrite:
		c.Kind = Write
		if c.Length > maxRequest {
			return c, fmt.Errorf("a write of %d bytes", c.Length)
		}
		c.Data = make([]byte, c.Length)
		if _, err := io.ReadFull(in, c.Data); err != nil {
			return c, err
		}
	case commandFlush:
		c.Kind, c.Offset, c.Length = Flush, 0, 0
	case commandTrim:
		c.Kind = Trim
	case commandWriteZeroes:
		c.Kind = Zero
	default:
		c.errno = errnoInvalid
	}

	tooLong := c.read && c.Length > maxRequest
	if tooLong || c.Offset < 0 || c.Offset > size || c.Length > size-c.Offset ||
		c.Offset%SectorSize != 0 || c.Length%SectorSize != 0 {
		c.errno = errnoInvalid
	}
	return c, nil
}
