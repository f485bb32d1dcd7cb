package engine

import "math/rand/v2"

// inventName makes up a name for a container: an adjective and a thing found in
// sediment.
func inventName() string {
	adjectives := [...]string{
		"amber", "ancient", "banded", "bold", "bright", "calm", "clear", "cold", "deep", "drifting", "dusty", "early",
		"fine", "gentle", "golden", "grey", "hidden", "jolly", "keen", "late", "layered", "light", "lively", "mellow",
		"mighty", "northern", "patient", "pale", "polished", "quiet", "rapid", "red", "rough", "rusty", "silent", "silver",
		"slow", "smooth", "soft", "steady", "still", "sunny", "swift", "tidal", "upper", "vivid", "warm", "wild", "young",
	}
	things := [...]string{
		"agate", "alluvium", "ammonite", "basalt", "belemnite", "boulder", "breccia", "brook", "cave", "chalk", "chert",
		"clay", "cobble", "coral", "crater", "delta", "diatom", "dolomite", "dune", "esker", "fjord", "flint", "fossil",
		"geode", "glacier", "gneiss", "granite", "gravel", "gypsum", "lagoon", "lake", "lava", "ledge", "limestone",
		"loess", "marble", "marl", "moraine", "obsidian", "pebble", "pollen", "pumice", "quartz", "reef", "sandstone",
		"schist", "shale", "silt", "slate", "trilobite", "tuff", "turbidite",
	}
	return adjectives[rand.N(len(adjectives))] + "_" + things[rand.N(len(things))]
}
