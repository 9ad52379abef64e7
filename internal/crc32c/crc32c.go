// Package crc32c has the checksum of everything that is sent or stored, and derives that
// of bytes from those of their parts, which need not be read again. None of them may have
// 512 MiB.
package crc32c

import "hash/crc32"

// Table is that of CRC-32C.
var Table = crc32.MakeTable(crc32.Castagnoli)

// Checksum returns the CRC-32C of b.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, Table) }

// Extend returns the checksum of bytes and b behind them, given that of the bytes.
func Extend(sum uint32, b []byte) uint32 { return crc32.Update(sum, Table, b) }

// Join returns the checksum of bytes and n others behind them, given those of both: it
// reads neither.
func Join(sum, others uint32, n int) uint32 { return shift(sum, n) ^ others }

// Cut returns the checksum of b[from:to], given that of b: it reads the rest instead.
func Cut(b []byte, sum uint32, from, to int) uint32 {
	sum ^= shift(Checksum(b[:from]), len(b)-from) ^ Checksum(b[to:])
	return shift(sum, to-len(b))
}

// A checksum is a polynomial over the field of two elements, of which the highest bit is
// the coefficient of 1 and the lowest that of x^31, modulo that of CRC-32C. These are
// x and 1/x, each to the power of 1, 2, 4, 8 and so on.
var (
	powers   = squares(one >> 1)
	inverses = squares((one^crc32.Castagnoli)<<1 | 1)
)

const one uint32 = 1 << 31

func squares(x uint32) (s [32]uint32) {
	for i := range s {
		s[i] = x
		x = product(x, x)
	}
	return s
}

// shift multiplies a checksum by x once for each bit of n bytes: so much counts what
// stands before them. It divides if n is negative.
func shift(sum uint32, n int) uint32 {
	factors := &powers
	if n < 0 {
		factors, n = &inverses, -n
	}
	for i := 3; n > 0; i, n = i+1, n>>1 {
		if n&1 == 1 {
			sum = product(factors[i], sum)
		}
	}
	return sum
}

func product(a, b uint32) (p uint32) {
	for ; a != 0; a <<= 1 {
		if a&one != 0 {
			p ^= b
		}
		b = b>>1 ^ crc32.Castagnoli&-(b&1) // times x
	}
	return p
}
