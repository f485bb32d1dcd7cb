package engine

import (
	"time"

	"github.com/varvefs/varve/internal/container"
)

// noteImage notes what has happened to an image, whose ID or name comes first.
func (e *Engine) noteImage(id, action, name string) {
	var attributes map[string]string
	if name != "" {
		attributes = map[string]string{"name": name}
	}
	e.Note(container.EventLine{Time: time.Now(), Type: container.OfImage, Action: action, ID: id, Attributes: attributes})
}

// noteLabels are the attributes of a new container: its labels, image and name.
func noteLabels(labels map[string]string, image, name string) map[string]string {
	a := map[string]string{"image": image, "name": name}
	for key, value := range labels {
		if _, known := a[key]; !known {
			a[key] = value
		}
	}
	return a
}
