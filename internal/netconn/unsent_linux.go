package netconn

// notSentLowWater is TCP_NOTSENT_LOWAT of linux/tcp.h.
const notSentLowWater = 25
