package main

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"

	"github.com/docker/go-units"
)

// A checkedList is a flag that may be given several times. Each value is looked at when
// the command line is read, so that the complaint names the flag, as docker's does.
type checkedList struct {
	list  *[]string
	check func(string) error
}

func (l checkedList) Type() string   { return "stringArray" }
func (l checkedList) String() string { return "" }
func (l checkedList) Set(text string) error {
	if err := l.check(text); err != nil {
		return err
	}
	*l.list = append(*l.list, text)
	return nil
}

// byteSize is a flag for bytes, in docker's units of 1024.
type byteSize int64

func (b *byteSize) Type() string   { return "bytes" }
func (b *byteSize) String() string { return "" }
func (b *byteSize) Set(text string) error {
	n, err := units.RAMInBytes(text)
	*b = byteSize(n)
	return err
}

// swapSize is a byteSize that may be -1, which is any.
type swapSize int64

func (s *swapSize) Type() string   { return "bytes" }
func (s *swapSize) String() string { return "" }
func (s *swapSize) Set(text string) error {
	if text == "-1" {
		*s = -1
		return nil
	}
	return (*byteSize)(s).Set(text)
}

// swappiness is a flag for a number, where -1 is as if it were not given.
type swappiness struct{ value **int64 }

func (s swappiness) Type() string   { return "int" }
func (s swappiness) String() string { return "" }
func (s swappiness) Set(text string) error {
	n, err := strconv.ParseInt(text, 10, 64)
	if *s.value = &n; n == -1 {
		*s.value = nil
	}
	return err
}

// cpus is a flag for processors, kept in billionths.
type cpus int64

func (c *cpus) Type() string   { return "decimal" }
func (c *cpus) String() string { return "" }
func (c *cpus) Set(text string) error {
	value, ok := new(big.Rat).SetString(text)
	if !ok {
		return fmt.Errorf("failed to parse %s as a rational number", text)
	}
	nano := value.Mul(value, big.NewRat(1e9, 1))
	if !nano.IsInt() || !nano.Num().IsInt64() {
		return errors.New("value is too precise")
	}
	*c = cpus(nano.Num().Int64())
	return nil
}

// count is a flag for a number, where -1 is any.
type count int64

func (c *count) Type() string   { return "int" }
func (c *count) String() string { return "" }
func (c *count) Set(text string) error {
	n, err := strconv.ParseInt(text, 10, 64)
	*c = count(max(n, 0))
	return err
}
