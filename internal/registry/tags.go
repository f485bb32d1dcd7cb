package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// maxTags bounds what is listed; no honest repository has as many.
const maxTags = 100_000

// Tags lists the tags of the repository in the registry's order.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	var tags []string
	page := r.url("tags", "list")
	for page != nil {
		header, data, err := r.get(ctx, page, "application/json", maxManifest)
		if err != nil {
			return nil, err
		}
		var list struct {
			Tags []string `json:"tags"`
		}
		if err := json.Unmarshal(data, &list); err != nil {
			return nil, fmt.Errorf("the tags of %s: %w", r.name, err)
		}
		before := len(tags)
		if tags = append(tags, list.Tags...); len(tags) > maxTags {
			return nil, fmt.Errorf("%s has more than %d tags: name those that you want", r.name, maxTags)
		}
		if page = nextPage(page, header); len(tags) == before {
			break // a page of nothing leads nowhere
		}
	}
	return tags, nil
}

// nextPage is where the list goes on (OCI distribution-spec, "Listing Tags"), nil
// if it does not. It stays with the same registry.
func nextPage(page *url.URL, header http.Header) *url.URL {
	for _, link := range header.Values("Link") {
		target, rel, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
		if !ok || !strings.Contains(rel, `rel="next"`) && !strings.Contains(rel, "rel=next") {
			continue
		}
		next, err := page.Parse(target)
		if err != nil || next.Host != page.Host {
			return nil
		}
		return next
	}
	return nil
}
