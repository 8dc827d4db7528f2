package workerproto

// What the tests against Nix's vectors look at.

func ReadDerivedPath(c *Conn) (DerivedPath, error)  { return c.readDerivedPath() }
func WriteDerivedPath(c *Conn, d DerivedPath) error { return c.writeDerivedPath(d) }
func ReadBuildMode(c *Conn) (BuildMode, error)      { return c.readBuildMode() }
func ReadStrings(c *Conn) ([]string, error)         { return c.readStrings(maxFeatures, "strings") }
func WriteStrings(c *Conn, all []string) error      { return c.writeStrings(all) }
