package raft

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// Whose certificate it is.

// authority signs the certificates of a cluster.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pool        *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	a := &authority{pool: x509.NewCertPool()}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true}
	a.certificate, a.key = a.sign(t, template)
	a.pool.AddCert(a.certificate)
	return a
}

// sign makes a certificate, which is its own authority's if there is none.
func (a *authority) sign(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template.SerialNumber = big.NewInt(1)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return certificate, key
}

// config is for mutual TLS with a certificate that has these names.
func (a *authority) config(t *testing.T, common string, names ...string) *tls.Config {
	certificate, key := a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: common}, DNSNames: names})
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{certificate.Raw}, PrivateKey: key}},
		RootCAs:      a.pool, ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

// securePair returns nodes of two ids, whose handlers count what reaches them.
func securePair(t *testing.T, first, second NodeID, configs [2]*tls.Config, options ...TCPOption) (nodes [2]*tcpNode, reached *atomic.Int64) {
	reached = new(atomic.Int64)
	listeners := [2]net.Listener{listen(t), listen(t)}
	peers := map[NodeID]string{first: listeners[0].Addr().String(), second: listeners[1].Addr().String()}
	for i, id := range []NodeID{first, second} {
		options := append([]TCPOption{WithListener(listeners[i]), WithTLS(configs[i])}, options...)
		nodes[i] = startTCP(t, transportUnderTest{NewTCPTransport(peers, 5*time.Second, options...), Local{ID: id, Address: peers[id]}})
		nodes[i].handler.heartbeat = func(context.Context, *Heartbeat) (*HeartbeatResponse, error) {
			reached.Add(1)
			return new(HeartbeatResponse), nil
		}
		nodes[i].handler.vote = func(context.Context, *VoteRequest) (*VoteResponse, error) {
			reached.Add(1)
			return new(VoteResponse), nil
		}
	}
	return nodes, reached
}

// A member of the cluster, with a certificate of its own, calls itself by the name of
// another. Whoever dials, the two are not connected, both say why, and nothing of what it
// says is heard. Without the check it is.
func TestTCPNobodyPosesAsAnother(t *testing.T) {
	ca := newAuthority(t)
	configs := [2]*tls.Config{ca.config(t, "", "a"), ca.config(t, "", "c")}
	t.Run("checked", func(t *testing.T) {
		nodes, reached := securePair(t, "a", "b", configs)
		a, impostor := nodes[0], nodes[1]
		const says = `the certificate that is shown for node b is for "c"`

		err := impostor.beat(t, a)
		assert.ErrorIs(t, err, ErrUnreachable)
		assert.ErrorIs(t, err, ErrWrongNode)
		assert.ErrorContains(t, err, says)
		_, err = impostor.CallVote(testContext(t), "a", &VoteRequest{Header: impostor.headerTo(a.transportNode), Term: 9})
		assert.ErrorIs(t, err, ErrUnreachable)
		eventually(t, func() bool { return a.logs.FilterMessage("refused a connection").Len() == 1 }, "a line in the log")
		assert.Contains(t, a.logs.All()[0].ContextMap()["error"], says)

		err = a.beat(t, impostor)
		assert.ErrorIs(t, err, ErrUnreachable)
		assert.ErrorIs(t, err, ErrWrongNode)
		assert.ErrorContains(t, err, says)
		eventually(t, func() bool { return impostor.logs.FilterMessage("refused a connection").Len() == 1 }, "a line in the log")
		assert.Contains(t, impostor.logs.FilterMessage("refused a connection").All()[0].ContextMap()["error"], "look at the certificates of both")
		stream, events := openTestStream(a.transportNode, "b")
		defer stream.Close()
		assert.ErrorIs(t, awaitValue(t, events.closed, "the end of the stream"), ErrWrongNode)

		assert.Zero(t, reached.Load())
		assert.Zero(t, a.tcp.Stats().Accepted+impostor.tcp.Stats().Accepted)
	})
	t.Run("not checked", func(t *testing.T) {
		for i := range configs {
			configs[i] = configs[i].Clone()
			configs[i].ServerName = []string{"c", "a"}[i] // there is no host in these certificates
		}
		nodes, reached := securePair(t, "a", "b", configs, WithoutCertificateNames())
		assert.NoError(t, nodes[0].beat(t, nodes[1]))
		assert.NoError(t, nodes[1].beat(t, nodes[0]))
		assert.EqualValues(t, 2, reached.Load())
	})
}

// A certificate is for the ids that it names, letter by letter.
func TestTCPNamesInCertificates(t *testing.T) {
	for name, test := range map[string]struct {
		id     NodeID
		common string
		names  []string
		fits   bool
	}{
		"one name":                         {"node1", "", []string{"node1"}, true},
		"one of several":                   {"node1", "x", []string{"host.example.com", "node1"}, true},
		"capital letters and underscores":  {"Node_1.a-b", "", []string{"Node_1.a-b"}, true},
		"looks like an address":            {"10.0.0.1", "", []string{"10.0.0.1"}, true},
		"common name":                      {"node1", "node1", nil, true},
		"another case":                     {"node1", "", []string{"Node1"}, false},
		"wildcard":                         {"n.example.com", "", []string{"*.example.com"}, false},
		"part of it":                       {"node1", "", []string{"node1.example.com"}, false},
		"common name beside others":        {"node1", "node1", []string{"node2"}, false},
		"common name in another case":      {"node1", "NODE1", nil, false},
		"no name":                          {"node1", "", nil, false},
		"a name that no DNS would know of": {"..node1", "..node1", nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			leaf := &x509.Certificate{Subject: pkix.Name{CommonName: test.common}, DNSNames: test.names}
			err := checkCertificate(test.id, []*x509.Certificate{leaf, {DNSNames: []string{string(test.id)}}})
			assert.Equal(t, test.fits, err == nil, "%v", err)
			if err != nil {
				assert.Equal(t, CodeWrongNode, CodeOf(err))
				assert.ErrorContains(t, err, "node "+string(test.id))
			}
		})
	}
	assert.ErrorContains(t, checkCertificate("a", nil), "node a shows no certificate")
}

// Names that ids may have and hosts may not work over real connections, with a chain of
// certificates too.
func TestTCPCertificatesOfUnusualNodes(t *testing.T) {
	ca := newAuthority(t)
	between := &authority{pool: ca.pool}
	between.certificate, between.key = ca.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "between"}, IsCA: true, BasicConstraintsValid: true})
	for name, configs := range map[string][2]*tls.Config{
		"DNS names":    {ca.config(t, "", "Node_1.x"), ca.config(t, "", "other", "10.0.0.1")},
		"common names": {ca.config(t, "Node_1.x"), ca.config(t, "10.0.0.1")},
		"chain":        {between.config(t, "Node_1.x"), between.config(t, "", "10.0.0.1")},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "chain" {
				for _, config := range configs {
					config.Certificates[0].Certificate = append(config.Certificates[0].Certificate, between.certificate.Raw)
				}
			}
			nodes, reached := securePair(t, "Node_1.x", "10.0.0.1", configs)
			assert.NoError(t, nodes[0].beat(t, nodes[1]))
			assert.NoError(t, nodes[1].beat(t, nodes[0]))
			assert.EqualValues(t, 2, reached.Load())
		})
	}
}

// Names are checked beside everything else: the authority, the time, a ServerName, and what
// the user checks.
func TestTCPNamesAreCheckedBesideAllElse(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	refused := errors.New("the user says no")
	for name, test := range map[string]struct {
		dialer func(*tls.Config)
		says   string
	}{
		"another authority": {func(c *tls.Config) { c.RootCAs = stranger.pool }, "certificate signed by unknown authority"},
		"expired":           {func(c *tls.Config) { c.Time = func() time.Time { return time.Now().Add(2 * time.Hour) } }, "certificate has expired"},
		"another server":    {func(c *tls.Config) { c.ServerName = "elsewhere" }, "certificate is valid for b, host, not elsewhere"},
		"user's view of the connection": {func(c *tls.Config) {
			c.VerifyConnection = func(state tls.ConnectionState) error {
				if len(state.VerifiedChains) != 1 || len(state.VerifiedChains[0]) != 2 {
					return errors.New("the chains are not there")
				}
				return refused
			}
		}, refused.Error()},
		"user's view of the certificate": {func(c *tls.Config) {
			c.VerifyPeerCertificate = func(raw [][]byte, chains [][]*x509.Certificate) error {
				if len(raw) != 1 || len(chains) != 1 || len(chains[0]) != 2 {
					return errors.New("the chains are not there")
				}
				return refused
			}
		}, refused.Error()},
		"the server's name beside the id": {func(c *tls.Config) { c.ServerName = "host" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dialer := ca.config(t, "", "a")
			test.dialer(dialer)
			nodes, reached := securePair(t, "a", "b", [2]*tls.Config{dialer, ca.config(t, "", "b", "host")})
			err := nodes[0].beat(t, nodes[1])
			if test.says == "" {
				assert.NoError(t, err)
				return
			}
			assert.ErrorIs(t, err, ErrUnreachable)
			assert.ErrorContains(t, err, test.says)
			assert.Zero(t, reached.Load())
		})
	}
	t.Run("the name, where the user verifies the rest", func(t *testing.T) {
		dialer := ca.config(t, "", "a")
		dialer.InsecureSkipVerify = true
		nodes, _ := securePair(t, "a", "b", [2]*tls.Config{dialer, ca.config(t, "", "c")})
		assert.ErrorIs(t, nodes[0].beat(t, nodes[1]), ErrWrongNode)
	})
}

// Without mutual TLS nobody has to show a name, and the host is expected, as everywhere.
func TestTCPWithoutMutualTLSTheHostCounts(t *testing.T) {
	ca := newAuthority(t)
	at := func(ip net.IP) *tls.Config {
		certificate, key := ca.sign(t, &x509.Certificate{IPAddresses: []net.IP{ip}})
		return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate.Raw}, PrivateKey: key}}, RootCAs: ca.pool}
	}
	nodes, _ := securePair(t, "a", "b", [2]*tls.Config{at(net.IPv4(127, 0, 0, 1)), at(net.IPv4(10, 0, 0, 1))})
	assert.NoError(t, nodes[1].beat(t, nodes[0]))
	assert.ErrorContains(t, nodes[0].beat(t, nodes[1]), "certificate is valid for 10.0.0.1, not 127.0.0.1")
}

// Once it is connected a peer speaks for itself only: requests under another name break the
// connection and reach nobody.
func TestTCPRequestsUnderAnotherName(t *testing.T) {
	_, b := startTCPPair(t, time.Second)
	var reached atomic.Int64
	b.handler.heartbeat = func(context.Context, *Heartbeat) (*HeartbeatResponse, error) {
		reached.Add(1)
		return new(HeartbeatResponse), nil
	}
	b.handler.begin = func(*AppendEntries, func(*AppendResponse, error)) { reached.Add(1) }
	header := Header{Fingerprint: b.local.Fingerprint, From: "a", To: "b"}
	for kind, request := range map[uint64]message{kindHeartbeat: &Heartbeat{Header: header}, kindStreamedAppend: &AppendEntries{Header: header}} {
		before := b.tcp.Stats().MalformedFrames
		peer := dialRawPeer(t, b, helloFor(b, wire.PurposeBulk)) // it calls itself raw
		data, err := request.AppendBinary(nil)
		require.NoError(t, err)
		peer.Write(rawFrame(t, kind, 1, data))
		peer.ended(t)
		eventually(t, func() bool { return b.tcp.Stats().MalformedFrames == before+1 }, "the connection to be broken")
	}
	assert.Zero(t, reached.Load())
	eventually(t, func() bool { return b.logs.Len() > 0 }, "a line of the log")
	assert.Contains(t, b.logs.All()[0].ContextMap()["error"], `it says that it is from "a", on a connection of "raw"`)
}
