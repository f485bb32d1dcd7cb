package whiteout

// ConvertUntil is Convert that is killed before a step, if before says so.
func ConvertUntil(root int, to Dialect, before func() error) (Conversion, error) {
	c := converter{to: to, before: before}
	err := c.convert(root)
	return c.done, err
}
