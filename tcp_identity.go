package raft

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
)

// With mutual TLS a certificate says whose it is, so that no member can pose as another.

// WithoutCertificateNames takes any certificate for any node, as long as its authorities
// are those of the config: the checks of names that [WithTLS] speaks of are left out. The
// side that dials expects the host of the peer's address in the certificate then, unless
// the config has a ServerName.
func WithoutCertificateNames() TCPOption {
	return func(o *tcpOptions) { o.anyName = true }
}

// checksNames reports whether certificates must be for the nodes that show them. Where
// those who dial need not have one nothing is gained by it.
func (o *tcpOptions) checksNames() bool {
	return !o.anyName && o.tls != nil && o.tls.ClientAuth == tls.RequireAndVerifyClientCert
}

// wrongCertificate is the error of a certificate that is for somebody else. It matches
// ErrWrongNode.
type wrongCertificate struct{ text string }

func (e *wrongCertificate) Error() string        { return e.text }
func (e *wrongCertificate) Is(target error) bool { return target == ErrWrongNode }

// checkCertificate returns an error unless the first of these certificates, which were
// verified, is for a node. Its names are the DNS names, or the common name if it has
// none. They are compared byte by byte: ids that differ in case only are two nodes, and
// no wildcard stands for all.
func checkCertificate(id NodeID, certificates []*x509.Certificate) error {
	if len(certificates) == 0 {
		return &wrongCertificate{fmt.Sprintf("node %s shows no certificate", id)}
	}
	names := namesIn(certificates[0])
	if slices.Contains(names, string(id)) {
		return nil
	}
	said := "for nobody"
	if len(names) > 0 {
		said = fmt.Sprintf("for %q", strings.Join(names, ", "))
	}
	return &wrongCertificate{fmt.Sprintf("the certificate that is shown for node %s is %s: it must have the id of the node as a DNS name, or as its common name if it has no DNS names", id, said)}
}

func namesIn(certificate *x509.Certificate) []string {
	if len(certificate.DNSNames) == 0 && certificate.Subject.CommonName != "" {
		return []string{certificate.Subject.CommonName}
	}
	return certificate.DNSNames
}

// dialTLS returns the config for a connection to a peer.
func (o *tcpOptions) dialTLS(peer NodeID, address string) *tls.Config {
	config := o.tls.Clone()
	takesHost := config.ServerName == "" && !config.InsecureSkipVerify
	if takesHost {
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	if !o.checksNames() {
		return config
	}
	if takesHost { // the id stands in its place: crypto/tls can only leave out both checks
		config.InsecureSkipVerify = true
		config.VerifyPeerCertificate = nil
	}
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if takesHost {
			if err := verifyChain(o.tls, &state); err != nil {
				return err
			}
		}
		if verify := o.tls.VerifyConnection; verify != nil {
			if err := verify(state); err != nil {
				return err
			}
		}
		return checkCertificate(peer, state.PeerCertificates)
	}
	return config
}

// verifyChain does what crypto/tls does with the certificates of a server, but for
// its name.
func verifyChain(config *tls.Config, state *tls.ConnectionState) (err error) {
	options := x509.VerifyOptions{Roots: config.RootCAs, Intermediates: x509.NewCertPool()}
	if config.Time != nil {
		options.CurrentTime = config.Time()
	}
	for _, certificate := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(certificate)
	}
	if state.VerifiedChains, err = state.PeerCertificates[0].Verify(options); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	if verify := config.VerifyPeerCertificate; verify != nil && !state.DidResume {
		var raw [][]byte
		for _, certificate := range state.PeerCertificates {
			raw = append(raw, certificate.Raw)
		}
		return verify(raw, state.VerifiedChains)
	}
	return nil
}
