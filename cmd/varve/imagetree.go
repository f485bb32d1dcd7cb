package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/varvefs/varve/internal/engine"
)

// layerNode is a layer in the drawing of all chains.
type layerNode struct {
	text     string   // the layer itself
	names    []string // of the images that it is the top of
	children []*layerNode
}

// drawImages draws the chains of images as trees, the lowest layers at the left. A
// layer that several images share is drawn once.
func drawImages(w io.Writer, list []engine.ImageInfo, noTrunc bool) error {
	root := &layerNode{}
	nodes := map[string]*layerNode{"": root}
	for _, i := range list {
		for _, l := range slices.Backward(i.Layers) {
			if nodes[l.ID] != nil {
				continue
			}
			n := &layerNode{text: layerText(l, noTrunc)}
			nodes[l.ID] = n
			nodes[l.Parent].children = append(nodes[l.Parent].children, n)
		}
		if len(i.Layers) > 0 {
			n := nodes[i.Layers[0].ID]
			n.names = append(n.names, imageTitle(i, noTrunc))
		}
	}
	for _, n := range root.children {
		if err := n.draw(w, "", ""); err != nil {
			return err
		}
	}
	return nil
}

// layerText is a layer in one line: its ID, its size and how it came about.
func layerText(l engine.ChainLayer, noTrunc bool) string {
	how := strings.Join(strings.Fields(l.CreatedBy), " ")
	if how == "" {
		how = l.Comment
	}
	if !noTrunc {
		how = ellipsis(how, 45)
	}
	return strings.TrimRight(fmt.Sprintf("%s %s %s", shortID(l.ID, noTrunc), size(l.Size), how), " ")
}

// imageTitle is an image with its names.
func imageTitle(i engine.ImageInfo, noTrunc bool) string {
	var names []string
	for _, n := range i.Names() {
		names = append(names, n.Repository+":"+n.Tag)
	}
	if len(names) == 0 {
		names = []string{none}
	}
	return fmt.Sprintf("%s (image %s, %s)", strings.Join(names, ", "), imageID(i.ID, noTrunc), size(i.Size))
}

// draw writes the layer after lead, and what stands on it after indent.
func (n *layerNode) draw(w io.Writer, lead, indent string) error {
	if _, err := fmt.Fprintln(w, lead+n.text); err != nil {
		return err
	}
	bar := "  "
	if len(n.children) > 0 {
		bar = "│ "
	}
	for _, name := range n.names {
		if _, err := fmt.Fprintln(w, indent+bar+"* "+name); err != nil {
			return err
		}
	}
	for i, child := range n.children {
		lead, below := "├─ ", "│  "
		if i == len(n.children)-1 {
			lead, below = "└─ ", "   "
		}
		if err := child.draw(w, indent+lead, indent+below); err != nil {
			return err
		}
	}
	return nil
}
