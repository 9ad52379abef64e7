package main

import (
	"fmt"
	"io"
	"slices"
)

// The picture shows some rows as bars: which part of the limit each peer reaches. It
// brings its own background, in two colours, since whoever shows it may not know
// which one the reader has chosen.
const pictureHead = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[1]d %[2]d" width="%[1]d" height="%[2]d" role="img" aria-label="Commands per second, as a part of the limit">
<style>
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
.small { font-size: 11px; fill: #59636e; }
.title { font-weight: 600; }
.ground { fill: #ffffff; }
.rule { stroke: #d1d9e0; }
.p0 { fill: #0969da; } .p1 { fill: #bf8700; } .p2 { fill: #57ab5a; } .p3 { fill: #2f7d4f; } .p4 { fill: #a475d9; }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc; }
.small { fill: #9198a1; }
.ground { fill: #0d1117; }
.rule { stroke: #3d444d; }
.p0 { fill: #4493f8; }
}
</style>
<rect class="ground" width="%[1]d" height="%[2]d" rx="6"/>
<text class="title" x="16" y="26">Commands per second, committed and applied, every write synced; 100%% is the limit, a log without Raft</text>
`

// Sizes of the picture, in pixels.
const (
	pictureWidth = 920
	barsLeft     = 190
	barsRight    = 850 // of the longest, behind which its number has room
	barsTop      = 62
	barHeight    = 11
	barStep      = 13
	groupGap     = 16
)

// drawPicture draws what was measured of the rows that are in the picture.
func drawPicture(w io.Writer, rs results) {
	drawn := slices.DeleteFunc(slices.Clone(rows), func(r row) bool {
		most, ok := rs.median(r.name(), limit, rate)
		return !r.Drawn || !ok || most == 0
	})
	shown := libraries()
	bottom := barsTop + len(drawn)*(len(shown)*barStep+groupGap)
	fmt.Fprintf(w, pictureHead, pictureWidth, bottom+24)
	x := 16
	for i, p := range shown {
		fmt.Fprintf(w, "<rect class=\"p%d\" x=\"%d\" y=\"38\" width=\"10\" height=\"10\"/><text class=\"small\" x=\"%d\" y=\"47\">%s</text>\n", i, x, x+14, p.title)
		x += 34 + 6*len(p.title)
	}
	most := furthest(rs, drawn, shown)
	scale := float64(barsRight-barsLeft) / most
	for fifths := range int(5*most) + 1 {
		at := barsLeft + int(scale*float64(fifths)/5)
		fmt.Fprintf(w, "<path class=\"rule\" d=\"M%d.5 %dV%d\"/><text class=\"small\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">%d%%</text>\n", at, barsTop-4, bottom, at, bottom+14, 20*fifths)
	}
	y := barsTop
	for _, r := range drawn {
		y = drawGroup(w, rs, r, shown, y, scale) + groupGap
	}
	fmt.Fprintln(w, "</svg>")
}

// furthest returns the largest part of the limit that is drawn, the limit itself at least.
func furthest(rs results, drawn []row, shown []peer) float64 {
	most := 1.
	for _, r := range drawn {
		all, _ := rs.median(r.name(), limit, rate)
		for _, p := range shown {
			v, _ := rs.median(r.name(), p.name, rate)
			most = max(most, v/all)
		}
	}
	return most
}

// drawGroup draws the bars of one row, scale pixels for the limit, and returns where they
// end.
func drawGroup(w io.Writer, rs results, r row, shown []peer, y int, scale float64) int {
	fmt.Fprintf(w, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", barsLeft-10, y+len(shown)*barStep/2+4, r.label())
	all, _ := rs.median(r.name(), limit, rate)
	for i, p := range shown {
		if v, ok := rs.median(r.name(), p.name, rate); ok {
			length := max(1, scale*v/all)
			fmt.Fprintf(w, "<rect class=\"p%d\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/><text class=\"small\" x=\"%.1f\" y=\"%d\">%s</text>\n",
				i, barsLeft, y, length, barHeight, barsLeft+length+4, y+barHeight-1, grouped(v, 0))
		}
		y += barStep
	}
	return y
}
